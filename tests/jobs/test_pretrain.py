"""`vit pretrain` and `vit recipes`, on tiny stand-in data: every recipe trains, stops, goes on and is released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import vitkit
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.jobs.pretrain import pretrain
from vitkit.recipes.book import all_recipes
from vitkit.runlog import RunLog

SMALL = {
    "steps": 2, "batch_size": 6, "evaluations": 1, "model.depth": 1, "model.embed_dim": 64, "model.num_heads": 2,
    "model.mlp_dim": 64,
}  # fmt: skip
RECIPES = all_recipes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes told apart by colour, train and test."""
    root = tmp_path_factory.mktemp("stand-in")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 5)):
        for name, colour in (("blue", (30, 60, 200)), ("red", (210, 40, 30))):
            for i in range(count):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(np.array(colour) + rng.normal(0, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pre-trained model, of patches of 4 pixels at 32 x 32."""
    return pretrain(
        "cifar10_small", data=data, out=tmp_path_factory.mktemp("w") / "run", settings=SMALL, workers=0
    ).bundle


def small(recipe: Any, **more: Any) -> dict[str, Any]:
    """Changes that make a recipe's run two tiny steps."""
    settings = {**SMALL, **more}
    if recipe.model.representation_size:
        settings["model.representation_size"] = 16
    if max(recipe.model.image_size) > 64:
        settings["image_size"] = (64, 64) if recipe.model.stem is not None else (4 * recipe.model.patch_size[0],) * 2
    if getattr(recipe.augment, "resize", 0) and recipe.augment.crop in ("resize_crop", "resmall_crop"):
        settings["augment.resize"] = 80
    return settings


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.name for recipe in RECIPES])
def test_every_recipe_trains_two_steps_and_resumes_to_the_same_losses(
    recipe: Any, data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(recipe, **({"model.stem": (1, 1)} if recipe.model.stem else {}))
    if recipe.needs_start:
        settings |= {"start": str(weights), "image_size": (32, 32)}
        settings |= {"augment.resize": 40} if hasattr(recipe.augment, "resize") else {}
    whole = pretrain(recipe.name, data=data, out=tmp_path / "whole", settings=settings, workers=0)
    step = RunLog.on_step

    def stop(self: RunLog, report: Any) -> None:
        step(self, report)
        self._stop = True

    monkeypatch.setattr(RunLog, "on_step", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe.name, data=data, out=tmp_path / "cut", settings=settings, workers=0)
    monkeypatch.setattr(RunLog, "on_step", step)
    again = pretrain(resume=tmp_path / "cut")
    lines = [[json.loads(line) for line in (r.run / "metrics.jsonl").read_text().splitlines()] for r in (whole, again)]
    assert [e["loss"] for e in lines[0] if "loss" in e] == [e["loss"] for e in lines[1] if "loss" in e]
    assert len([e for e in lines[0] if "loss" in e]) == 2
    first, second = (load_file(r.bundle / "model.safetensors") for r in (whole, again))
    assert all(bool((first[name] == second[name]).all()) for name in first)
    assert bool(whole.rows) == (recipe.objective != "masked_patch")


def test_a_recipe_learns_and_its_bundle_is_used_by_the_other_commands(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    changes = [
        "steps=30",
        "batch_size=16",
        "optim.lr=0.002",
        "model.depth=2",
        "model.embed_dim=32",
        "model.mlp_dim=64",
        "model.num_heads=2",
    ]
    assert main(["pretrain", "cifar10_small", f"data={data}", *changes, "--out", str(run), "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "result    test top-1 100.0%" in out
    assert {p.name for p in run.iterdir()} >= {
        "model",
        "report.html",
        "report.json",
        "metrics.jsonl",
        "checkpoints",
        "command.txt",
    }
    report = json.loads((run / "report.json").read_text())
    assert report["recipe"]["settings"]["optim.lr"] == 0.002
    assert {row["metric"] for row in report["rows"]} >= {"top1", "nll"}
    page = (run / "report.html").read_text()
    assert "100.0 %" in page
    assert "cifar10_small on stand-in" in page
    bundle = vitkit.load(run / "model")
    assert bundle.classes == ("blue", "red")
    with Image.open(data / "test" / "red" / "0.png") as image:
        assert bundle.predict(image, top=1)[0].answer == "red"
    assert main(["pretrain", "--resume", str(run)]) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert main(["pretrain", "--resume", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["dataset"].endswith("/test")


def test_transfer_goes_on_from_a_bundle_and_masked_pre_training_gives_one(data: Path, tmp_path: Path) -> None:
    masked = pretrain(
        "tiny_imagenet_small_masked", data=data, out=tmp_path / "masked", settings={**SMALL, "steps": 3}, workers=0
    )
    assert masked.rows == ()
    assert vitkit.load(masked.bundle).config.num_classes == 0
    settings = {
        "steps": 3,
        "batch_size": 8,
        "evaluations": 1,
        "image_size": (32, 32),
        "augment.resize": 40,
        "optim.lr": 0.05,
    }
    with pytest.raises(UserError, match=r"paper_finetune_cifar10 goes on from pre-trained weights: say start=WEIGHTS"):
        pretrain("paper_finetune_cifar10", data=data, out=tmp_path / "no", settings=settings, workers=0)
    tuned = pretrain(
        "paper_finetune_cifar10",
        data=data,
        out=tmp_path / "tuned",
        settings={**settings, "start": str(masked.bundle)},
        workers=0,
    )
    config = vitkit.load(tuned.bundle).config
    assert (config.embed_dim, config.depth, config.num_classes, config.image_size) == (64, 1, 2, (32, 32))
    assert {row.metric for row in tuned.rows} >= {"top1"}


@pytest.mark.parametrize("changes", [{"model.position": "relative"}, {"model.position_at": "layers"}])
def test_positions_of_our_own_are_trained_released_and_gone_on_with(
    changes: dict[str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SMALL, "model.depth": 2, **changes}
    run = pretrain("cifar10_small", data=data, out=tmp_path / "run", settings=settings, workers=0)
    bundle = vitkit.load(run.bundle)
    for name, value in changes.items():
        assert getattr(bundle.config, name.removeprefix("model.")) == value
    images = sorted((data / "test" / "red").glob("*.png"))
    assert len(vitkit.predict(run.bundle, images).predictions) == len(images)
    on = pretrain(
        "cifar10_small", data=data, out=tmp_path / "on", settings={**SMALL, "start": str(run.bundle)}, workers=0
    )
    assert vitkit.load(on.bundle).config == bundle.config
    larger = {**SMALL, "start": str(run.bundle), "image_size": (40, 48)}
    if "model.position" in changes:
        with pytest.raises(UserError, match=r"relative positions of a 8x8 grid.*Run it at 32x32 pixels"):
            pretrain("cifar10_small", data=data, out=tmp_path / "larger", settings=larger, workers=0)
    else:
        found = pretrain("cifar10_small", data=data, out=tmp_path / "larger", settings=larger, workers=0)
        assert vitkit.load(found.bundle).model.pos_embed.shape[:2] == (2, 10 * 12)


def test_workers_change_nothing(data: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "mixing.mixup": 0.4, "mixing.cutmix": 1.0}
    runs = [pretrain("cifar10_small", data=data, out=tmp_path / str(n), settings=settings, workers=n) for n in (0, 2)]
    logs = [(r.run / "metrics.jsonl").read_text() for r in runs]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar_small", "data=x"], "no recipe 'cifar_small'. Did you mean 'cifar10_small'?"),
        (["cifar10_small", "data=nowhere", "--out", "OUT"], "no such data: nowhere."),
        (["cifar10_small", "--out", "OUT"], "recipe cifar10_small needs its data: say data=FOLDER"),
        (["cifar10_small", "data=DATA"], "name the folder to write to: --out RUN."),
        (["cifar10_small", "data=DATA", "lr=3", "--out", "OUT"], "has no setting 'lr'."),
        (["--resume", "OUT"], "is not a run from a recipe"),
        (["cifar10_small", "--resume", "OUT"], "--resume takes everything from the run"),
    ],
)
def test_what_cannot_be_is_one_message(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [a.replace("DATA", str(data)).replace("OUT", str(tmp_path / "out")) for a in arguments]
    assert main(["pretrain", *told]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_setting_given_twice_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "cifar10_small", "steps=2", "steps=3"]) == 2
    assert "steps is given more than once" in capsys.readouterr().err


def test_a_taken_folder_is_refused_and_how_to_go_on_is_told(data: Path, tmp_path: Path) -> None:
    pretrain("cifar10_small", data=data, out=tmp_path / "run", settings=SMALL, workers=0)
    with pytest.raises(
        UserError, match=r"already exists\. Choose another --out, or go on with it: vit pretrain --resume"
    ):
        pretrain("cifar10_small", data=data, out=tmp_path / "run", settings=SMALL, workers=0)


def test_each_kind_of_run_is_resumed_by_its_own_command(data: Path, tmp_path: Path) -> None:
    pretrain("cifar10_small", data=data, out=tmp_path / "run", settings=SMALL, workers=0)
    with pytest.raises(UserError, match="is a run from a recipe: vit pretrain --resume"):
        vitkit.finetune(resume=tmp_path / "run")
    (tmp_path / "run" / "arguments.json").write_text('{"data": "x"}')
    with pytest.raises(UserError, match=r"is not a run from a recipe.* vit finetune --resume"):
        pretrain(resume=tmp_path / "run")


def test_recipes_are_listed_with_cost_and_what_to_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "better", "300"]) == 0
    out = capsys.readouterr().out
    assert "expect 80.0% ImageNet-1k validation top-1 (arXiv 2205.01580)" in out
    assert f"1 of {len(all_recipes())} recipes." in out
    assert main(["recipes", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(all_recipes())


def test_pixels_that_fill_no_patch_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain("cifar10_small", data=data, out=tmp_path / "run", settings={**SMALL, "image_size": (30, 30)}, workers=0)
    told = "images of 30x30 are not whole patches: 2 rows and 2 columns of pixels are not seen"
    assert f"warning: {told}" in capsys.readouterr().err
    assert told in vitkit.load(tmp_path / "run" / "model").notes


def test_a_recipe_without_its_weights_is_refused_before_the_data_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"paper_finetune_cifar10 goes on from pre-trained weights: say start=WEIGHTS"):
        pretrain("paper_finetune_cifar10", data="nowhere", out=tmp_path / "run")


def test_a_run_that_never_began_is_told_from_one_of_another_kind(data: Path, tmp_path: Path) -> None:
    for job in (pretrain, vitkit.finetune):
        with pytest.raises(UserError, match=r"There is nothing to go on with: .* give its first command again\."):
            job(resume=tmp_path / "run")  # type: ignore[operator]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "command.txt.partial").write_text("vit")
    pretrain("cifar10_small", data=data, out=tmp_path / "run", settings=SMALL, workers=0)


def test_numbers_go_to_trackers_that_are_installed_and_others_are_refused_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"tensorbord.*Did you mean 'tensorboard'\?"):
        pretrain("cifar10_small", data=tmp_path, out=tmp_path / "run", track=("tensorbord",))
    assert not (tmp_path / "run").exists()


def test_a_recipe_recomputes_activations_in_any_precision_for_the_same_losses(data: Path, tmp_path: Path) -> None:
    runs = {
        str(more): pretrain(
            "cifar10_small", data=data, out=tmp_path / str(number), settings=small_cifar(more), workers=0
        ).run
        for number, more in enumerate(({}, {"activation_checkpointing": True}, {"precision": "bf16"}))
    }
    losses = [
        [e["loss"] for e in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in e]
        for run in runs.values()
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[2] == pytest.approx(losses[0], abs=0.05)
    assert losses[2] != losses[0]
    with pytest.raises(UserError, match="activation_checkpointing must be true or false, got 1"):
        pretrain("cifar10_small", data=data, out=tmp_path / "no", settings={"activation_checkpointing": 1})
    with pytest.raises(UserError, match=r"precision is 'bf61'; known: auto, fp32, bf16. Did you mean 'bf16'\?"):
        pretrain("cifar10_small", data=data, out=tmp_path / "no", settings={"precision": "bf61"})


def small_cifar(more: dict[str, Any]) -> dict[str, Any]:
    return {**SMALL, "model.dropout": 0.1, "optim.lr": 0.01, "steps": 3, **more}
