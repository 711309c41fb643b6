"""Without a GPU the engine says so; with one it gives eager's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.engines import cuda
from vitkit.engines.book import make_engine
from vitkit.models.vit import VisionTransformer, ViTConfig


def model() -> VisionTransformer:
    config = ViTConfig(
        embed_dim=64, depth=2, num_heads=2, mlp_dim=96, patch_size=(8, 8), image_size=(32, 40), num_classes=5
    )
    made = VisionTransformer(config)
    made.init_weights(0)
    assert made.head is not None
    made.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    return made.eval()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_with_the_reason() -> None:
    assert cuda.missing()
    with pytest.raises(UserError, match="--engine cuda cannot be used here: "):
        make_engine(Bundle(model(), None), "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_numbers_are_those_of_the_processor_and_depend_on_no_neighbour(precision: str) -> None:
    images = np.random.default_rng(0).standard_normal((7, 3, 32, 40), dtype=np.float32)
    engine = cuda.CudaEngine(model(), precision=precision)
    with torch.inference_mode():
        expected = model()(torch.from_numpy(images)).numpy()
    found = engine(images)
    assert np.abs(found.logits - expected).max() < (1e-4 if precision == "fp32" else 0.1)
    alone = np.concatenate([engine(image[None]).logits for image in images])
    assert np.array_equal(found.logits, alone)
