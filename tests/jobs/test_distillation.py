"""`vit pretrain RECIPE distill.teacher=MODEL`: what the student learns from, that it resumes, and teachers that do not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import vitkit
from vitkit.bundle import Bundle
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.loader import Batch
from vitkit.data.pixels import Preprocess
from vitkit.jobs.pretrain import pretrain
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.pretraining.model import first_model, with_objective
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import changed
from vitkit.runlog import RunLog

SMALL = {
    "steps": 3, "batch_size": 6, "evaluations": 1, "model.depth": 1, "model.embed_dim": 32, "model.num_heads": 2,
    "model.mlp_dim": 64, "optim.lr": 0.002,
}  # fmt: skip
CLASSES = ("blue", "red")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes told apart by colour, train and test."""
    root = tmp_path_factory.mktemp("stand-in")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 5)):
        for name, colour in zip(CLASSES, ((30, 60, 200), (210, 40, 30)), strict=True):
            for i in range(count):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(np.array(colour) + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path)
    return root


def teacher(folder: Path, classes: tuple[str, ...] | None = CLASSES, size: int = 48, **changes: Any) -> Path:
    """A bundle of another size and another normalisation than the student's; its answers are far from even."""
    config = ViTConfig(
        embed_dim=32, depth=1, num_heads=2, mlp_dim=32, patch_size=(8, 8), image_size=(size, size),
        **{"num_classes": 2, **changes},
    )  # fmt: skip
    model = VisionTransformer(config)
    model.init_weights(3)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    model.head.weight.data.neg_()  # its answers on the stand-in are wrong, so that they are told from labels
    record = Preprocess((size, size), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    if config.in_channels != 3:
        record = dataclasses.replace(record, mean=(0.5,), std=(0.5,))
    Bundle(model.eval(), record, classes=classes, source="made here", licence="none").save(folder)
    return folder


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_teacher_sees_the_pixels_as_it_was_trained_to(tmp_path: Path, kind: str) -> None:
    made = teacher(tmp_path / "teacher", size=32)
    settings = {**SMALL, "distill.teacher": str(made), "distill.kind": kind, "distill.weight": 0.3, "smoothing": 0.0}
    if kind == "soft":
        settings["distill.temperature"] = 2.0
    recipe = changed(find_recipe("cifar10_small"), settings)
    model = first_model(recipe, 2, Console())
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))
    module, objective = with_objective(recipe, model, CLASSES)
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # as read, in [0, 1]

    def normalised(record: Preprocess) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (record.mean, record.std))
        return (pixels - mean) / std

    bundle = vitkit.load(made)
    assert bundle.preprocess_record.mean != recipe.preprocess.mean
    taught = bundle.model(normalised(bundle.preprocess_record))
    labels = torch.tensor([0, 1, 0, 1, 1])
    student = model.eval()(normalised(recipe.preprocess))
    if kind == "hard":
        part = F.cross_entropy(student, taught.argmax(1))
    else:
        p, q = (torch.softmax(z / 2, 1) for z in (taught, student))
        part = (p * (p / q).log()).sum(1).mean() * 4
    expected = 0.7 * F.cross_entropy(student, labels) + 0.3 * part
    found = objective.loss(module, Batch(normalised(recipe.preprocess), labels))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distill.kind": "soft", "distill.temperature": 3, "mixing.mixup": 0.4, "mixing.cutmix": 1.0},
        {"model.distilled": True, "model.registers": 1, "model.pool": "cls", "model.cls_token": True},
    ],
    ids=["hard", "soft with mixed images", "two heads"],
)
def test_a_student_trains_and_resumes_to_the_same_losses(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
) -> None:
    settings = {**SMALL, "distill.teacher": str(teacher(tmp_path / "teacher")), **changes}
    whole = pretrain("cifar10_small", data=data, out=tmp_path / "whole", settings=settings, workers=0)
    assert "teacher   made here" in capsys.readouterr().out
    plain = {key: value for key, value in settings.items() if not key.startswith("distill.")}
    without = pretrain("cifar10_small", data=data, out=tmp_path / "without", settings=plain, workers=2)
    assert losses(without.run) != losses(whole.run)
    step = RunLog.on_step

    def stop(self: RunLog, report: Any) -> None:
        step(self, report)
        self._stop = True

    monkeypatch.setattr(RunLog, "on_step", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain("cifar10_small", data=data, out=tmp_path / "cut", settings=settings, workers=0)
    monkeypatch.setattr(RunLog, "on_step", step)
    monkeypatch.chdir(tmp_path)
    again = pretrain(resume=tmp_path / "cut")
    assert losses(again.run) == losses(whole.run)
    assert len(losses(again.run)) == 3
    config = json.loads((whole.bundle / "config.json").read_text())
    assert "taught by" in json.dumps(config)


def test_a_student_of_a_trained_teacher_learns_by_its_answers_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [f"{key}={value}" for key, value in {**SMALL, "steps": 30, "batch_size": 16}.items()]
    arguments = ["pretrain", "cifar10_small", f"data={data}", *changes, "--workers", "0"]
    assert main([*arguments, "--out", str(tmp_path / "teacher")]) == 0
    capsys.readouterr()
    taught = [f"distill.teacher={tmp_path / 'teacher' / 'model'}", "distill.weight=1"]
    assert main([*arguments, *taught, "--out", str(tmp_path / "student")]) == 0
    assert "result    test top-1 100.0%" in capsys.readouterr().out


def test_another_image_size_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**SMALL, "steps": 1, "distill.teacher": str(teacher(tmp_path / "teacher", size=48))}
    pretrain("cifar10_small", data=data, out=tmp_path / "run", settings=settings, workers=0)
    assert "it runs at 32x32 in place of its own 48x48" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"num_classes": 3, "classes": ("a", "b", "c")}, r"has 3 classes and the data 2; they must be equal"),
        ({"classes": ("red", "blue")}, r"the same in another order: class 0 is 'red' there and 'blue' here"),
        ({"classes": ("blue", "green")}, r"other classes than the data.* class 1 is 'green' there and 'red' here"),
        ({"in_channels": 1}, r"has 1 channels and the data 3; they must be equal"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(data: Path, tmp_path: Path, made: dict[str, Any], message: str) -> None:
    settings = {**SMALL, "distill.teacher": str(teacher(tmp_path / "teacher", **made))}
    with pytest.raises(UserError, match=message):
        pretrain("cifar10_small", data=data, out=tmp_path / "run", settings=settings, workers=0)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        (
            "tiny_imagenet_small_masked",
            {"distill.teacher": "x"},
            r"distillation is for the objective softmax.*masked_patch",
        ),
        (
            "cifar10_small",
            {"objective": "sigmoid", "smoothing": 0.0, "distill.teacher": "x"},
            r"the recipe's is sigmoid",
        ),
        ("cifar10_small", {"distill.kind": "soft"}, r"distillation needs a teacher: say distill\.teacher=MODEL"),
        ("cifar10_small", {"distill.teacher": "x", "distill.kind": "sft"}, r"known: hard, soft\. Did you mean 'soft'"),
        ("cifar10_small", {"distill.teacher": "x", "distill.weight": 1.5}, r"distill\.weight must be in \[0, 1\]"),
        ("cifar10_small", {"distill.teacher": "x", "distill.temperature": 0}, r"distill\.temperature above 0"),
        (
            "cifar10_small",
            {"distill.teachr": "x"},
            r"has no setting 'distill\.teachr'\. Did you mean 'distill\.teacher'",
        ),
        ("cifar10_small", {"distill.teacher": "nowhere"}, r"no model 'nowhere'"),
    ],
)
def test_settings_that_cannot_be_are_one_message(
    data: Path, tmp_path: Path, recipe: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(recipe, data=data, out=tmp_path / "run", settings={**SMALL, **settings}, workers=0)
