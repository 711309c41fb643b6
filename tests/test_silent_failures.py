"""Failures that nobody is told of in other tools, one test each; none may happen here."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch

import vitkit
from conftest import COLOURS, write_images
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.augment import Augment
from vitkit.data.loader import training_batches
from vitkit.data.pixels import Preprocess
from vitkit.data.sources import Sample, read_source
from vitkit.evals.scoring import score_samples
from vitkit.models.vit import VisionTransformer, ViTConfig

QUIET = Console(io.StringIO(), io.StringIO())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A model whose answer is a colour: the head's weights are random, so different images get different logits."""
    model = VisionTransformer(
        ViTConfig(embed_dim=8, depth=1, num_heads=1, mlp_dim=8, patch_size=(8, 8), image_size=(16, 16), num_classes=3)
    )
    model.init_weights(0)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return Bundle(model, Preprocess((16, 16)), tuple(COLOURS), source="a test", licence="none").save(
        tmp_path / "bundle"
    )


def test_1_a_split_without_one_class_is_scored_on_the_right_labels(bundle: Path, photos: Path) -> None:
    """A validation folder that lacks the first class must not shift the labels of the others."""
    model = vitkit.load(bundle)
    whole = score_samples(model, read_source(photos).splits["test"], QUIET, "")
    right = {s.name: s.label for s in whole.samples}
    for path in (photos / "test/blue").iterdir():
        path.unlink()
    source = read_source(photos)
    assert source.classes == ("blue", "green", "red")
    part = score_samples(model, source.splits["test"], QUIET, "")
    assert {s.name: s.label for s in part.samples} == {name: i for name, i in right.items() if "blue" not in name}
    assert any("blue" in note for note in source.notes)  # and it is told
    alone = vitkit.evaluate(bundle, photos / "test", console=QUIET)  # the bare split has two classes: matched by name
    assert alone[0].value == part.scores.values["top1"]
    assert alone[0].n == 8


def test_2_no_image_is_scored_in_place_of_an_unreadable_one(bundle: Path, photos: Path, tmp_path: Path) -> None:
    model = vitkit.load(bundle)
    samples = list(read_source(photos).splits["test"])
    before = score_samples(model, samples, QUIET, "")
    bad = 5
    Path(samples[bad].source).write_bytes(b"no image")  # type: ignore[arg-type]
    after = score_samples(model, samples, QUIET, "")
    assert [name for name, _ in after.skipped] == [samples[bad].name]
    assert after.scores.n == len(samples) - 1
    np.testing.assert_array_equal(after.logits, np.delete(before.logits, bad, axis=0))  # every other row is its own
    out = tmp_path / "out.csv"
    vitkit.predict(bundle, [s.source for s in samples], out=out, console=QUIET)  # type: ignore[misc]
    with open(out, encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [
            str(s.source) for i, s in enumerate(samples) if i != bad
        ]
    with pytest.raises(UserError, match="strict"):
        score_samples(model, samples, QUIET, "", strict=True)


def test_3_nothing_trains_or_scores_on_a_black_image(photos: Path, tmp_path: Path) -> None:
    """An unreadable file, before or during training, is named and never a tensor."""
    path = photos / "train/red/000.png"
    path.write_bytes(path.read_bytes()[:60])
    said = io.StringIO()
    made = vitkit.finetune(
        photos,
        model="scratch",
        out=tmp_path / "run",
        epochs=1,
        workers=0,
        settings={"batch_size": 8},
        console=Console(said, said),
    )
    assert "train/red/000.png" in said.getvalue()
    assert sum(made.facts["data"]["per_class"]["train"]) + sum(made.facts["data"]["per_class"]["val"]) == 23
    assert made.facts["data"]["skipped"][0][0] == "train/red/000.png"
    record, sample = Preprocess((16, 16)), Sample("gone.png", path, 0)
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"cannot be read now: gone\.png"):
            list(training_batches([sample], record, Augment(), batch_size=1, steps=range(1), seed=0, workers=workers))


def test_11_checkpoint_folders_of_notebooks_are_no_class(flat: Path, bundle: Path) -> None:
    write_images(flat / ".ipynb_checkpoints", (0, 0, 0), 3, 0)
    write_images(flat / "red" / ".ipynb_checkpoints", (0, 0, 0), 3, 0)
    source = read_source(flat)
    assert source.classes == ("blue", "green", "red")
    assert len(source.splits["all"]) == 24
    assert any("hidden folders" in note for note in source.notes)  # and it is told
    assert vitkit.predict(bundle, flat / "red", console=QUIET).written == 8
