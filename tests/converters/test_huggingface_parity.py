"""Our models against transformers' own, both ways: its names read here, our folders loaded by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters.huggingface_models import build, expected, files_of, images, read, state_of, tokens, write
from converters.parity_huggingface import ROWS, Row
from vitkit.converters.targets import family_for

IDS = [f"{row.family}-{row.model}-{row.image_size[0]}x{row.image_size[1]}" for row in ROWS]
TOLERANCE = 1e-5  # of the output's scale: measured at most 1.2e-6, and at least 8e-5 with the GELU of another family


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max |difference| over the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("spelling", ["new", "old"])
@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_their_weights_compute_the_same_here(row: Row, spelling: str, tmp_path: Path) -> None:
    model, pixels = build(row), images(row)
    ours, _, _ = read(state_of(model, tmp_path, spelling), files_of(model), row.image_size)
    theirs, peak = expected(row, model, pixels)
    assert peak > 4, "attention is near uniform, the comparison proves little"
    with torch.no_grad():
        features = ours.forward_features(pixels)
        assert apart(ours.forward_head(features), theirs) <= TOLERANCE
    settings = getattr(model.config, "vision_config", model.config)
    assert ours.config.norm_eps == settings.layer_norm_eps  # too small a thing to be seen in the output
    if (all_tokens := tokens(row, model, pixels)) is not None:
        own = torch.cat([features.prefix, features.patches.flatten(1, 2)], dim=1)
        assert apart(own, all_tokens) <= TOLERANCE


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_their_own_loader_takes_our_folder_and_computes_the_same(row: Row, tmp_path: Path) -> None:
    model = build(row)
    ours, module, _ = read(state_of(model, tmp_path, "new"), files_of(model))
    assert family_for(ours.config) is module
    theirs = write(ours, module, tmp_path / "written")
    written = Row(row.family, row.library, type(theirs).__name__, row.arguments, row.image_size)
    pixels = images(row)
    assert apart(expected(written, theirs, pixels)[0], expected(row, model, pixels)[0]) <= TOLERANCE
    again, same_module, ignored = read(state_of(theirs, tmp_path, "old"), files_of(theirs))
    assert same_module is module
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), ours.state_dict().values(), strict=True))
    assert ignored in ([], ["unused.embeddings.mask_token"])
