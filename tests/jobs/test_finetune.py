"""The main job end to end, on small noisy colours: every number agrees, equal seeds give equal runs, stops resume."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitkit
from conftest import write_images
from finetune_runs import MEAN_STD, QUICK, read_csv, run
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.pixels import open_image
from vitkit.data.sources import read_source
from vitkit.evals.classify import wilson
from vitkit.models.vit import VisionTransformer


def weights_of(result: Any) -> dict[str, torch.Tensor]:
    return load_file(result.bundle / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_report_evaluate_predict_and_load_agree_to_the_last_digit(photos: Path, tmp_path: Path) -> None:
    result = run(photos, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "report.json").read_text())
    assert facts["headline"]["split"] == "test"
    assert facts["headline"]["label"] == ""
    rows = {row.metric: row for row in vitkit.evaluate(result.bundle, photos, console=Console(io.StringIO()))}
    reported = {row["metric"]: row for row in facts["rows"] if row["dataset"] == "photos/test"}
    for metric, row in rows.items():
        assert row.value == reported[metric]["value"], metric
        assert (row.low, row.high) == (reported[metric]["low"], reported[metric]["high"])

    out = tmp_path / "answers.csv"
    vitkit.predict(result.bundle, photos / "test", out=out, console=Console(io.StringIO()))
    predicted = read_csv(out)
    of_run = [row for row in read_csv(result.run / "predictions.csv") if row["split"] == "test"]
    bundle = vitkit.load(result.bundle)
    assert len(predicted) == len(of_run) == 12
    for mine, theirs in zip(predicted, of_run, strict=True):
        assert mine["path"].endswith(theirs["path"])
        assert (mine["prediction"], mine["probability"]) == (theirs["prediction"], theirs["probability"])
        with Image.open(mine["path"]) as image:
            alone = bundle.predict(image, top=1)[0]
        assert (alone.classes[0], repr(alone.probabilities[0])) == (mine["prediction"], mine["probability"])
    hits = sum(row["label"] == row["prediction"] for row in of_run)
    assert rows["top1"].value == hits / 12
    together = bundle.predict([open_image(row["path"]) for row in predicted], top=1)
    assert [repr(p.probabilities[0]) for p in together] == [row["probability"] for row in predicted]


def test_the_run_folder_holds_what_the_interface_promises(photos: Path, tmp_path: Path) -> None:
    result = run(photos, tmp_path / "run", command="vit finetune photos")
    folder = tmp_path / "run"
    for name in ("report.html", "report.json", "metrics.jsonl", "command.txt", "split.json", "plan.json"):
        assert (folder / name).is_file(), name
    assert (folder / "command.txt").read_text() == "vit finetune photos\n"
    steps = [entry for entry in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, len(steps) + 1))
    assert len(steps) == result.facts["plan"]["train"]["steps"]
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["classes"] == ["blue", "green", "red"]
    assert config["format_version"] == 1
    assert config["calibration"]["temperature"] > 0
    training = json.loads((folder / "model" / "training.json").read_text())
    assert training["recipe"]["batch_size"] == 8
    assert training["metrics"]["test"]["top1"] == result.headline["value"]
    assert "photos: 3 classes" in (folder / "report.html").read_text()


def test_equal_seeds_give_equal_weights_whatever_the_number_of_workers(flat: Path, tmp_path: Path) -> None:
    first = run(flat, tmp_path / "a", seed=3, workers=0)
    second = run(flat, tmp_path / "b", seed=3, workers=2)
    assert equal(weights_of(first), weights_of(second))
    assert (first.bundle / "model.safetensors").read_bytes() == (second.bundle / "model.safetensors").read_bytes()
    other = run(flat, tmp_path / "c", seed=4)
    assert not equal(weights_of(first), weights_of(other))


def test_a_stored_plan_repeats_the_run(flat: Path, tmp_path: Path) -> None:
    first = run(flat, tmp_path / "a")
    again = vitkit.finetune(
        flat, out=tmp_path / "b", plan=tmp_path / "a", workers=0, console=Console(io.StringIO(), io.StringIO())
    )
    assert equal(weights_of(first), weights_of(again))
    with pytest.raises(UserError, match="--plan fixes recipe"):
        run(flat, tmp_path / "c", plan=tmp_path / "a")


@pytest.mark.parametrize("how", ["interrupt", "crash"])
def test_a_stopped_run_resumes_exactly(how: str, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(flat, tmp_path / "whole", settings={**QUICK, "ema": 0.9})
    from vitkit.runlog import RunLog

    on_step = RunLog.on_step

    def stop_at_five(self: RunLog, report: Any) -> None:
        on_step(self, report)
        if report.step == 5:
            if how == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C: the step is finished and saved
            else:
                raise RuntimeError("killed")  # goes on from the last checkpoint

    monkeypatch.setattr(RunLog, "on_step", stop_at_five)
    with pytest.raises(KeyboardInterrupt if how == "interrupt" else RuntimeError):
        run(flat, tmp_path / "part", settings={**QUICK, "ema": 0.9})
    monkeypatch.setattr(RunLog, "on_step", on_step)
    assert not (tmp_path / "part" / "report.json").exists()
    resumed = vitkit.finetune(resume=tmp_path / "part", console=Console(io.StringIO(), io.StringIO()))
    assert equal(weights_of(whole), weights_of(resumed))
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "part")]
    assert logs[0] == logs[1]
    said = io.StringIO()
    vitkit.finetune(resume=tmp_path / "part", console=Console(said))
    assert "is finished; nothing to do" in said.getvalue()
    with pytest.raises(UserError, match="--resume takes everything from the run"):
        vitkit.finetune(resume=tmp_path / "part", epochs=4)


def test_a_run_without_a_checkpoint_starts_over(flat: Path, tmp_path: Path) -> None:
    first = run(flat, tmp_path / "a")
    for name in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / "a" / name)
    (tmp_path / "a" / "report.json").unlink()
    again = vitkit.finetune(resume=tmp_path / "a", console=Console(io.StringIO(), io.StringIO()))
    assert equal(weights_of(first), weights_of(again))


def test_a_flat_tree_is_split_and_its_figure_is_called_optimistic(flat: Path, tmp_path: Path) -> None:
    result = run(flat, tmp_path / "run")
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert len(split["train"]) + len(split["val"]) == 24
    assert not set(split["train"]) & set(split["val"])
    assert {name.split("/")[0] for name in split["val"]} == {"blue", "green", "red"}
    assert result.headline["split"] == "val"
    assert result.headline["label"] == "selection, optimistic"
    assert all(row["label"] == "selection, optimistic" for row in result.facts["rows"])


def test_the_test_split_chooses_nothing(photos: Path, tmp_path: Path) -> None:
    first = run(photos, tmp_path / "a")
    for folder in (photos / "test").iterdir():  # other test images, wrong labels
        shutil.rmtree(folder)
        write_images(folder, (128, 128, 128), 5, seed=9)
    second = run(photos, tmp_path / "b")
    assert equal(weights_of(first), weights_of(second))
    assert first.headline["value"] != second.headline["value"]
    assert [row for row in first.facts["rows"] if row["dataset"] == "photos/val"] == [
        row for row in second.facts["rows"] if row["dataset"] == "photos/val"
    ]


def test_a_validation_folder_of_its_own_is_matched_by_name(flat: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "mine" / "red", (200, 50, 40), 3, seed=1)  # only the last class
    result = run(flat, tmp_path / "run", val=tmp_path / "mine")
    assert result.facts["data"]["counts"] == {"train": 24, "val": 3}
    assert result.facts["data"]["per_class"]["val"] == [0, 0, 3]
    write_images(tmp_path / "other" / "violet", (200, 50, 200), 3, seed=1)
    with pytest.raises(UserError, match="does not know: 'violet'"):
        run(flat, tmp_path / "run2", val=tmp_path / "other")


def test_a_broken_file_is_listed_and_replaced_by_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "train" / "red" / "bad.jpg").write_bytes(b"no picture")
    (photos / "test" / "red" / "worse.png").write_bytes(b"")
    result = run(photos, tmp_path / "run")
    assert [name for name, _ in result.facts["data"]["skipped"]] == ["train/red/bad.jpg", "test/red/worse.png"]
    assert result.headline["n"] == 12
    with pytest.raises(UserError, match="cannot be used, the first"):
        run(photos, tmp_path / "strict", strict=True)


def test_pretrained_weights_get_a_new_head_and_keep_their_licence(backbone: Path, photos: Path, tmp_path: Path) -> None:
    result = run(photos, tmp_path / "run", model=backbone, overrides=MEAN_STD)
    bundle = vitkit.load(result.bundle)
    assert bundle.config.num_classes == 3
    assert bundle.source == "backbone.safetensors"
    assert bundle.preprocess_record.mean == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="nothing says how images were prepared"):
        run(photos, tmp_path / "run2", model=backbone)
    again = run(photos, tmp_path / "run3", model=result.bundle)  # a bundle is a backbone too
    assert again.headline["n"] == 12


@pytest.mark.parametrize("what", ["head", "lora"])
def test_training_less_than_everything_leaves_the_rest_alone(
    what: str, backbone: Path, photos: Path, tmp_path: Path
) -> None:
    result = run(
        photos, tmp_path / "run", model=backbone, overrides=MEAN_STD, train=what, settings={**QUICK, "lr": 0.02}
    )
    tuned = weights_of(result)
    start = VisionTransformer(vitkit.load(result.bundle).config).state_dict()
    assert tuned.keys() == start.keys()  # low-rank updates are folded in
    before = vitkit.load(backbone, **MEAN_STD).model.state_dict()
    changed = {name for name in tuned if not name.startswith("head.") and not torch.equal(tuned[name], before[name])}
    released = result.facts["release"]["released"]
    if what == "head" or released == "linear probe":
        assert changed == set()
    else:
        assert changed == {f"blocks.{i}.attn.{part}.weight" for i in (0, 1) for part in ("qkv", "proj")}


def test_the_probe_is_released_when_fine_tuning_ends_below_it(photos: Path, tmp_path: Path, backbone: Path) -> None:
    ruinous = {**QUICK, "lr": 0.0}  # the head stays at zero: every image is the first class
    result = run(photos, tmp_path / "run", model=backbone, overrides=MEAN_STD, settings=ruinous)
    assert result.facts["release"]["released"] == "linear probe"
    assert "Fine-tuning ended below the probe" in result.facts["release"]["reason"]
    assert result.headline["value"] == 1.0
    backbone_weights = vitkit.load(backbone, **MEAN_STD).model.state_dict()
    released = weights_of(result)
    assert all(torch.equal(released[n], backbone_weights[n]) for n in released if not n.startswith("head."))


def test_mirroring_is_turned_off_where_it_changes_the_class(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
    source = read_source("digits")
    for sample in source.splits["train"][::4]:  # a mirrored 2 is no 2
        path = tmp_path / sample.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.source)
    result = run(tmp_path / "train", tmp_path / "run", epochs=1)
    assert result.facts["probe"]["mirrored_val_accuracy"] < result.facts["probe"]["val_accuracy"] - 0.1
    assert result.facts["recipe"]["flip"] is False


def test_rectangular_size_and_fit_are_stored_with_the_model(flat: Path, tmp_path: Path) -> None:
    result = run(flat, tmp_path / "run", image_size=(16, 32), fit="pad")
    bundle = vitkit.load(result.bundle)
    assert bundle.config.image_size == (16, 32)
    assert bundle.preprocess_record.image_size == (16, 32)
    assert bundle.preprocess_record.fit == "pad"
    assert bundle.preprocess(Image.new("RGB", (50, 40))).shape == (3, 16, 32)


def test_a_loss_that_is_not_a_number_stops_with_one_message(photos: Path, tmp_path: Path, backbone: Path) -> None:
    with pytest.raises(UserError, match=r"the loss became (nan|inf) at step \d+"):
        run(photos, tmp_path / "run", model=backbone, overrides=MEAN_STD, settings={**QUICK, "lr": 1e30})
    assert (tmp_path / "run" / "metrics.jsonl").read_text()  # what was written stays
    assert not (tmp_path / "run" / "model").exists()


def test_a_budget_shortens_the_schedule(flat: Path, tmp_path: Path) -> None:
    for attempt in range(3):  # a machine may compile first; other work that begins after the plan is none of its
        tight = run(flat, tmp_path / f"tight-{attempt}", epochs=1e6, budget=12.0)
        if tight.facts["seconds"] < 30:
            break
    steps = tight.facts["plan"]["train"]["steps"]
    assert 1 <= steps < 1e5
    assert tight.facts["seconds"] < 30
    with pytest.raises(UserError, match="is spent before the first step"):
        run(flat, tmp_path / "none", budget=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "stretch"}, "known: auto, crop, squash, pad"),
        ({"train": "tail"}, "known: all, head, lora"),
        ({"train": "lora"}, "needs weights to keep"),
        ({"select_by": "auc"}, "known: auto, top1, balanced_accuracy, macro_f1, nll"),
        ({"epochs": -1}, "must be above 0"),
        ({"seed": -1}, "must not be negative"),
        ({"settings": {"learning_rate": 1}}, "unknown setting 'learning_rate'"),
        ({"settings": {"lr": "fast"}}, "lr must be of type float"),
        ({"settings": {"batch_size": 0}}, "must be above 0"),
        ({"settings": {"ema": 2.0}}, r"ema must be in \[0, 1\)"),
        ({"settings": {"lr": float("nan")}}, "lr must be a finite number"),
        ({"epochs": float("inf")}, "must be above 0"),
        ({"seed": 2**70}, "below 2\\*\\*63"),
        ({"model": "no-such-model"}, "no model 'no-such-model'"),
    ],
)
def test_wrong_options_say_what_is_known(flat: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(flat, tmp_path / "run", **options)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "nll"])
def test_the_kept_weights_are_the_newest_that_are_not_significantly_worse(
    flat: Path, tmp_path: Path, metric: str
) -> None:
    result = run(flat, tmp_path / "run", select_by=metric)
    name = {"accuracy": "top1"}.get(metric, metric)
    evaluations = result.facts["curves"]["evaluations"]
    kept = next(e for e in evaluations if e["step"] == result.facts["finetune"]["best_step"])
    if metric == "nll":  # no rate, no interval: strictly the best
        assert kept["nll"] == min(e["nll"] for e in evaluations)
    else:
        best = max(e[name] for e in evaluations)
        floor = wilson(round(best * 3), 3)[0]
        assert kept == [e for e in evaluations if e[name] >= floor][-1]


def test_python_calls_are_written_down_in_full(flat: Path, tmp_path: Path) -> None:
    result = run(flat, tmp_path / "run", seed=5)
    command = (tmp_path / "run" / "command.txt").read_text()
    assert command.startswith(f"vitkit.finetune({str(flat)!r}, model='scratch', epochs=3")
    assert "seed=5" in command
    assert "'batch_size': 8" in command
    assert result.facts["command"] == command.strip()


def test_a_run_resumes_from_any_folder(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(flat.parent)
    run(Path("flat"), tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = vitkit.finetune(resume=tmp_path / "run", console=Console(io.StringIO(), io.StringIO()))
    assert again.headline["n"] == 3


def test_images_that_are_in_two_splits_are_told(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "train" / "red" / "000.png", photos / "test" / "red" / "copy.png")
    result = run(photos, tmp_path / "run")
    worst = result.facts["data"]["audit"]["findings"][0]
    assert worst["kind"] == "leak_exact"
    assert "1 of 13 test images are also in train (byte by byte): figures on test are too high" in worst["message"]
    assert worst["message"] in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_evaluation_knows_the_images_that_made_the_model_by_their_content(flat: Path, tmp_path: Path) -> None:
    result = run(flat, tmp_path / "run")
    shutil.copytree(flat, tmp_path / "renamed")
    rows = vitkit.evaluate(result.bundle, tmp_path / "renamed", console=Console(io.StringIO(), io.StringIO()))
    assert {row.label for row in rows} == {"includes training images, optimistic"}
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    for name in split["val"]:
        target = tmp_path / "held" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(flat / name, target)
    rows = vitkit.evaluate(result.bundle, tmp_path / "held", console=Console(io.StringIO(), io.StringIO()))
    assert {row.label for row in rows} == {"selection, optimistic"}
    write_images(tmp_path / "new" / "val" / "red", (200, 50, 40), 3, seed=77)
    rows = vitkit.evaluate(result.bundle, tmp_path / "new", console=Console(io.StringIO(), io.StringIO()))
    assert {row.label for row in rows} == {""}
