"""The README.md of an artefact: what it is, and how to compute it without vitkit."""

from __future__ import annotations

from collections.abc import Sequence

from vitkit.artefact import GRAPHS
from vitkit.bundle import Bundle
from vitkit.data.pixels import Preprocess, resized_size

__all__ = ["card"]

RUN = {
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(None, {"images": crops})))""",
    "openvino": """import openvino

core = openvino.Core()
model = core.compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "HINT"})
found = {output.any_name: value for output, value in model({"images": crops}).items()}""",
    "torch": """import torch

program = torch.export.load("model.pt2").module(check_guards=False)
with torch.inference_mode():
    found = dict(zip(("logits", "features", "probabilities"), program(torch.from_numpy(crops))))""",
}


def card(bundle: Bundle, target: str, precision: str, proved: Sequence[str], notes: Sequence[str]) -> str:
    """The text."""
    record = bundle.require_preprocess()
    H, W, C = *record.image_size, record.channels
    pixels = "bytes, red, green, blue" if C == 3 else "float32 of each channel, integers divided by their largest value"
    hint = "bf16" if precision == "bf16" else "f32"
    lines = [
        f"# {GRAPHS[target]}, {precision}",
        "",
        f"Exported from {bundle.source or 'a Vision Transformer'}. Licence of the weights: {bundle.licence}.",
        "",
        "Proved when it was exported:",
        *(f"- {line}" for line in proved),
        *(f"- {note}" for note in notes),
        "",
        "With vitkit: `vit predict`, `evaluate`, `benchmark` and `serve` take this folder. Without:",
        "",
        f"1. Decode the image, turn it upright by its EXIF orientation{', make it RGB' if C == 3 else ''}.",
        f"2. {_fitting(record)}",
        f"3. Give the graph `images`, ({'B'}, {H}, {W}, {C}): {pixels}. It normalises them itself; any number of them at a time.",
        "",
        "```python",
        RUN[target].replace("HINT", hint),
        "```",
        "",
    ]
    if bundle.config.num_classes:
        lines.append(
            f"`probabilities` (B, {bundle.config.num_classes}) are calibrated; `classes` in vitkit.json names them in this order"
            f"{', `calibration.thresholds` says from which on one holds' if bundle.thresholds else ''}. "
            "`logits` are what they are made of."
        )
    lines.append(f"`features` (B, {bundle.config.feature_dim}) describe the image.")
    return "\n".join(lines) + "\n"


def _fitting(record: Preprocess) -> str:
    (H, W), kind = record.image_size, record.interpolation
    cover_h, cover_w = resized_size(record.image_size, record.crop_fraction)
    resize = f"{kind}, antialiased as Pillow's `Image.resize` does it"
    if record.fit == "squash":
        return f"Resize it to {W} x {H} pixels, whatever its shape ({resize})."
    if record.fit == "pad":
        return f"Resize it to fit into {W} x {H} ({resize}), and centre it on the colour `preprocess.mean`."
    if record.fit == "squash_crop":
        return (
            f"Resize it to {cover_w} x {cover_h}, whatever its shape ({resize}), and cut {W} x {H} out of its centre."
        )
    return f"Resize it so that it just covers {cover_w} x {cover_h} ({resize}), and cut {W} x {H} out of its centre."
