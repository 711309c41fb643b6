"""Writing a graph takes little memory beyond the model's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A model of 85 MB of weights. Peak memory of this process, above what it had before the model was made.
PROGRAM = """
import sys, resource, threading
import psutil, torch
from pathlib import Path
from vitkit.exporters.onnx import write_onnx
from vitkit.exporters.openvino import write_openvino
from vitkit.exporters.graph import library
from vitkit.models.vit import VisionTransformer, ViTConfig
format, folder = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
library(format, format)
write = {"onnx": write_onnx, "openvino": write_openvino}[format]
file = {"onnx": "a.onnx", "openvino": "a.xml"}[format]
small = VisionTransformer(ViTConfig.named("Ti/16", depth=1)).eval()
small.init_weights(0)
write(small, folder / file)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
model = VisionTransformer(ViTConfig.named("B/16", depth=3, layer_scale=0.1)).eval()
weights = sum(p.numel() * 4 for p in model.parameters())
write(model, folder / file)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / weights)
"""


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_writing_takes_less_than_three_times_the_weights(format: str, tmp_path: Path) -> None:
    pytest.importorskip(format)
    done = subprocess.run([sys.executable, "-c", PROGRAM, format, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3  # the model itself is one of them
