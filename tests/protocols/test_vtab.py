"""The whole VTAB protocol on two small data sets with a tiny model: resumed, swept, and refused where it must be."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.pixels import Preprocess
from vitkit.data.samples import Sample, Source
from vitkit.datasets import vtab
from vitkit.datasets.files.arrays import ArrayImage
from vitkit.datasets.rows import Published
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.pretraining.transfer import fine_tuned, top1
from vitkit.protocols import vtab as protocol
from vitkit.protocols.request import Request
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import changed

SMALL = {"steps": 2, "batch_size": 8, "image_size": 16}
RATE = {"optim.warmup_steps": 0, "optim.warmup": 0.0}


def coloured(count: int, start: int = 0) -> list[Sample]:
    """Red (0) and blue (1) images of different shapes."""
    found = []
    for n in range(start, start + count):
        pixels = np.full((10 + n % 5, 20, 3), 30, np.uint8)
        pixels[..., 2 * (n % 2)] = 200 + n % 50
        found.append(Sample(f"{n}", ArrayImage(pixels), n % 2))
    return found


def row(name: str, splits: Mapping[str, int]) -> Published:
    def read(folder: Path) -> Source:
        if (folder / "broken").exists():
            raise UserError("expected such and such files")
        return Source(name, ("red", "blue"), {split: coloured(count) for split, count in splits.items()})

    return Published(name, name, 2, {}, "", "", "", read)


@pytest.fixture
def request_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    rows = {
        "svhn": row("svhn", {"train": 40, "test": 12}),
        "kitti_distance": row("kitti", {"train": 20, "val": 6, "test": 9}),
    }
    monkeypatch.setattr(vtab, "find_dataset", rows.__getitem__)
    for folder in ("svhn", "kitti"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    torch.manual_seed(0)
    config = ViTConfig(
        embed_dim=32, depth=1, num_heads=2, mlp_dim=32, patch_size=8, image_size=24, num_classes=5,  # type: ignore[arg-type]
    )  # fmt: skip
    model = VisionTransformer(config)
    model.init_weights(0)
    record = Preprocess((24, 24), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    Bundle(model.eval(), record, classes=tuple("abcde")).save(tmp_path / "model")

    def make(**changes: Any) -> Request:
        values: dict[str, Any] = {
            "model": str(tmp_path / "model"), "data": "vtab", "data_root": str(tmp_path / "data"), "partial": True,
            "settings": SMALL, "workers": 0, "out": str(tmp_path / "out"),
        }  # fmt: skip
        return Request(**{**values, **changes})

    return make


def spoken(request: Request) -> tuple[list[Any], str, str]:
    out, err = io.StringIO(), io.StringIO()
    return protocol.run(request, Console(out, err)), out.getvalue(), err.getvalue()


def test_the_whole_protocol_and_how_it_goes_on(
    request_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, said, warned = spoken(request_for())
    assert [(r.task, r.dataset, r.metric, r.n) for r in rows] == [
        ("vtab", "vtab/svhn", "top1", 12), ("vtab", "vtab/kitti_distance", "top1", 9),
    ]  # fmt: skip
    assert "17 of 19 tasks have no folder" in warned
    assert "caltech101" in warned
    assert "svhn: the published 1,000 images, in the order of tfds" in said
    assert "2 of 2 tasks" in said
    assert "1 of 2 tasks" in said
    assert "to go" in said
    assert "structured: no mean, 7 of 8 tasks are missing: clevr_count" in said
    assert "VTAB-1k: no score, 17 of 19 tasks are missing" in said
    assert rows[0].label == (
        "other settings than the protocol: steps=2, batch_size=8, image_size=16; "
        "a part of the data set may be missing (--partial)"
    )
    stored = json.loads((tmp_path / "out/vtab/svhn.json").read_text())
    assert stored["accuracy"] == rows[0].value
    assert stored["chosen"] == [0.01, 2]

    # Finished tasks are not trained again; the one whose result is gone is.
    (tmp_path / "out/vtab/svhn.json").unlink()
    trained: list[str] = []
    real = protocol.transfer_top1
    monkeypatch.setattr(protocol, "transfer_top1", lambda *a, **k: trained.append(k["label"]) or real(*a, **k))
    again, said, _ = spoken(request_for())
    assert again == rows  # to the last digit
    assert trained == ["svhn lr 0.01 x 2"]
    assert f"from {tmp_path / 'out/vtab/kitti_distance.json'}" in said

    with pytest.raises(UserError, match=r"kitti_distance\.json is a result with another seed\. Choose another --out"):
        spoken(request_for(seed=1, data="vtab:kitti_distance"))
    with pytest.raises(UserError, match="another grid, another settings"):
        spoken(request_for(settings={**SMALL, "steps": 3}))
    (tmp_path / "out/vtab/svhn.json").write_text('{"accuracy": 1}')
    with pytest.raises(UserError, match=r"svhn\.json is not a result of this protocol"):
        spoken(request_for())


@pytest.mark.parametrize(("pixel", "label", "words"), [(1, 0, "contents have changed since"), (0, 1, "another images")])
def test_a_result_of_other_test_images_is_not_taken(
    pixel: int, label: int, words: str, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "transfer_top1", lambda *a, **k: 0.5)
    first = spoken(request_for(data="vtab:svhn"))[0]
    assert spoken(request_for(data="vtab:svhn"))[0] == first
    last = coloured(12)
    last[7] = last[7]._replace(label=last[7].label ^ label)
    pixels = np.full((12, 20, 3), 30, np.uint8)
    pixels[..., 2] = 207
    pixels[0, 0, 0] += pixel
    last[7] = last[7]._replace(source=ArrayImage(pixels))
    source = Source("svhn", ("red", "blue"), {"train": coloured(40), "test": last})
    monkeypatch.setattr(vtab, "find_dataset", lambda name: Published(name, name, 2, {}, "", "", "", lambda _: source))
    with pytest.raises(UserError, match=words):
        spoken(request_for(data="vtab:svhn"))


def test_a_sweep_chooses_on_val(request_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[int, int, float, int, int]] = []

    def transfer(model: Any, recipe: Any, train: Any, test: Any, classes: Any, console: Any, **_: Any) -> float:
        optim = recipe.optim
        called.append((len(train), len(test), optim.lr, recipe.steps, optim.warmup_steps))
        return 0.9 if (optim.lr, recipe.steps) == (0.03, 500) else 0.5

    monkeypatch.setattr(protocol, "transfer_top1", transfer)
    rows, said, _ = spoken(request_for(sweep=True, settings={}, out=None, data="vtab:svhn"))
    assert called == [
        *((36, 4, lr, steps, {500: 100, 2_500: 200}[steps]) for steps in (500, 2_500) for lr in (0.001, 0.003, 0.01, 0.03)),
        (40, 12, 0.03, 500, 100),
    ]  # fmt: skip
    assert rows[0].value == 0.9
    assert "svhn lr 0.03 x 500: 90.0% on the 4 images to choose with" in said
    assert "results are not kept" in said
    called.clear()
    spoken(request_for(settings={}, out=None, data="vtab:svhn"))
    assert called == [(40, 12, 0.01, 2_500, 500)]


def test_all_19_give_a_score(request_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vtab, "find_dataset", lambda name: row(name, {"train": 50, "val": 20, "test": 20}))
    for task in vtab.TASKS:
        (tmp_path / "data" / task.folder).mkdir(exist_ok=True)
    values = {task.name: n / 20 for n, task in enumerate(vtab.TASKS)}
    monkeypatch.setattr(protocol, "transfer_top1", lambda *a, label, **k: values[label.split()[0]])
    rows, said, warned = spoken(request_for())
    assert warned == ""
    assert [r.dataset for r in rows[19:]] == ["vtab/natural", "vtab/specialized", "vtab/structured", "vtab"]
    assert [round(r.value, 4) for r in rows[19:]] == [0.15, 0.425, 0.725, 0.45]
    assert "VTAB-1k: 45.0%, mean of 19 tasks" in said


def test_what_is_wrong_is_told_before_anything_is_trained(
    request_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "transfer_top1", lambda *a, **k: pytest.fail("trained"))
    (tmp_path / "data/kitti/broken").touch()
    for changes, words in (
        ({}, "expected such and such files"),
        (
            {"data": "vtab:eurosat"},
            r"has no folder of eurosat; expected eurosat, each with the publisher's files or what tfds",
        ),
        ({"data": "vtab:kitti"}, "VTAB has no task 'kitti'"),
        ({"data": "cifar10"}, "protocol vtab is of vtab or vtab:TASK, got 'cifar10'"),
        ({"data_root": str(tmp_path / "no")}, "no folder .*no; expected one with a folder for each"),
        ({"settings": {"step": 3}}, "no setting 'step'. Did you mean 'steps'"),
        ({"settings": {"augment.flip": True}}, "no setting 'augment.flip'"),
        ({"settings": {"steps": 0}}, "steps must be above 0"),
        ({"settings": {"optim.lrs": 1}}, "no setting 'optim.lrs'. Did you mean 'optim.lr'"),
        ({"settings": {"optim.lr": "high"}}, "lr"),
        ({"overrides": {"no": 1}}, "unknown override 'no'"),
        ({"partial": False, "data": "vtab:svhn"}, "has 36 and 4 images for 800 and 200"),
    ):
        with pytest.raises(UserError, match=words):
            spoken(request_for(**changes))
    monkeypatch.delenv("VITKIT_DATA", raising=False)
    with pytest.raises(UserError, match="where are VTAB's data sets"):
        spoken(request_for(data_root=None))


def test_a_model_learns_a_task_and_every_test_image_counts(request_for: Any) -> None:
    """Red against blue in 40 steps; images are squashed whole, so that shapes other than square do not matter."""
    config = ViTConfig(
        embed_dim=32, depth=1, num_heads=2, mlp_dim=32, patch_size=8, image_size=16, num_classes=2,  # type: ignore[arg-type]
    )  # fmt: skip
    model = VisionTransformer(config)
    model.init_weights(0)
    recipe = changed(find_recipe("paper_finetune_vtab"), {"steps": 40, "batch_size": 8, "image_size": 16, **RATE})
    console = Console(io.StringIO(), io.StringIO())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = fine_tuned(model, recipe, coloured(40), ("red", "blue"), console, workers=0)
    assert all(
        torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()
    )  # the model is left alone
    assert top1(tuned, recipe.preprocess, coloured(13, 100), console) == 1.0
    wrong = [sample._replace(label=1 - sample.label) for sample in coloured(5, 7)]
    assert top1(tuned, recipe.preprocess, [*coloured(13, 100), *wrong], console, workers=3) == 13 / 18
    again = fine_tuned(model, recipe, coloured(40), ("red", "blue"), console, workers=0)
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    with pytest.raises(UserError, match=r"7 cannot be read: .* Every test image counts"):
        top1(tuned, recipe.preprocess, [Sample("7", b"none", 0)], console)
    with pytest.raises(UserError, match="no images to score"):
        top1(tuned, recipe.preprocess, [], console)
