"""What a run says about how far to trust it: folds, class balance, unknown images, an earlier run, pictures."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitkit
from conftest import COLOURS, write_images
from finetune_runs import MEAN_STD, QUICK, read_csv, run
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.finetuning.release import _why_the_probe


def test_folds_score_every_image_once_by_a_model_that_never_saw_it(flat: Path, tmp_path: Path) -> None:
    result = run(flat, tmp_path / "run", folds=3)
    scored = [row for row in read_csv(tmp_path / "run" / "predictions.csv") if row["split"] == "cross-validation"]
    everything = sorted(path.relative_to(flat).as_posix() for path in flat.rglob("*.png"))
    assert sorted(row["path"] for row in scored) == everything
    tested = []
    for fold in (1, 2, 3):
        split = json.loads((tmp_path / "run" / "folds" / f"fold-{fold}" / "split.json").read_text())
        assert not set(split["test"]) & {*split["train"], *split["val"]}
        assert sorted([*split["test"], *split["train"], *split["val"]]) == everything
        tested += split["test"]
    assert sorted(tested) == everything
    hits = sum(row["label"] == row["prediction"] for row in scored)
    assert result.headline["split"] == "cross-validation"
    assert (result.headline["value"], result.headline["n"], result.headline["label"]) == (hits / 24, 24, "")
    final = json.loads((tmp_path / "run" / "split.json").read_text())
    assert len(final["train"]) + len(final["val"]) == 24  # the released model learns from every fold


def test_folds_go_on_where_they_stopped(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(flat, tmp_path / "whole", folds=2)
    from vitkit.runlog import RunLog

    on_step = RunLog.on_step

    def stop(self: RunLog, report: Any) -> None:
        on_step(self, report)
        if report.step == 2 and self.run.name == "fold-2":
            raise OSError("power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "on_step", stop)
        with pytest.raises(OSError, match="power"):
            run(flat, tmp_path / "stopped", folds=2)
    first = (tmp_path / "stopped" / "folds" / "fold-1" / "report.json").read_bytes()
    again = vitkit.finetune(resume=tmp_path / "stopped", console=Console(io.StringIO(), io.StringIO()))
    assert (tmp_path / "stopped" / "folds" / "fold-1" / "report.json").read_bytes() == first
    assert again.headline == whole.headline


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "--folds must be from 2 to 100"),
        (
            {"folds": 3, "data": "photos"},
            "this data has one, which gives an honest figure by itself. Leave --folds out",
        ),
        ({"folds": 9}, r"more than the rarest class has images \(8\).* at most 8 folds"),
        ({"balance": "even"}, "expected auto, none, or a JSON or CSV file"),
        ({"earlier": "nowhere"}, "nowhere is not a finished run"),
    ],
)
def test_wrong_wishes_are_one_clear_message(
    flat: Path, photos: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    options = dict(options)
    data = photos if options.pop("data", "") else flat
    with pytest.raises(UserError, match=message):
        run(data, tmp_path / "run", **options)


def test_a_skewed_set_is_balanced_and_selected_by_balanced_accuracy(tmp_path: Path) -> None:
    for seed, (name, count) in enumerate((("blue", 24), ("green", 6))):
        write_images(tmp_path / "data" / name, COLOURS[name], count, seed)
    facts = run(tmp_path / "data", tmp_path / "auto").facts
    weights, trained = facts["balance"]["weights"], facts["data"]["per_class"]["train"]
    assert weights[1] / weights[0] == pytest.approx(trained[0] / trained[1])
    assert facts["arguments"]["select_by"] == "balanced_accuracy"
    assert "balanced_accuracy" in facts["release"]["reason"]
    assert {row["metric"] for row in facts["rows"]} >= {"balanced_accuracy", "top1"}
    assert all(entry["recall"] is not None for entry in facts["per_class"])
    assert run(tmp_path / "data", tmp_path / "none", balance="none").facts["balance"]["weights"] is None


def test_unknown_images_are_flagged_alike_by_report_predict_and_load(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for seed, (name, colour) in enumerate(COLOURS.items()):
        write_images(root / "train" / name, colour, 16, seed)
        write_images(root / "val" / name, colour, 8, 50 + seed)
        write_images(root / "test" / name, colour, 8, 100 + seed)
    result = run(root, tmp_path / "run", epochs=6)
    strange = tmp_path / "strange"
    strange.mkdir()
    ramp = np.tile(np.linspace(0, 255, 16, dtype=np.uint8), (16, 1))
    for number in range(6):
        Image.fromarray(np.rot90(np.stack([ramp, ramp.T, 255 - ramp], -1), number)).save(strange / f"{number}.png")
    shown = vitkit.predict(result.bundle, strange, console=Console(io.StringIO(), io.StringIO())).predictions
    assert [p.unknown for _, p in shown] == [True] * 6
    validated = [row["unknown"] for row in read_csv(result.run / "predictions.csv") if row["split"] == "val"]
    assert validated.count("true") == 0  # rank ceil(25 * 0.95) = 24 of 24: none is further away
    out = tmp_path / "test.csv"
    vitkit.predict(result.bundle, root / "test", out=out, console=Console(io.StringIO(), io.StringIO()))
    of_run = [row["unknown"] for row in read_csv(result.run / "predictions.csv") if row["split"] == "test"]
    assert [row["unknown"] for row in read_csv(out)] == of_run
    bundle = vitkit.load(result.bundle)
    alone = [str(bundle.predict(Image.open(row["path"]))[0].unknown).lower() for row in read_csv(out)]
    assert alone == of_run
    rows = {row.metric: row.value for row in vitkit.evaluate(result.bundle, root, console=Console(io.StringIO()))}
    assert rows["unknown_rate"] == of_run.count("true") / 24
    assert result.facts["unknown"]["flagged"] == of_run.count("true")


def test_an_earlier_run_is_scored_on_the_same_images(photos: Path, tmp_path: Path) -> None:
    first = run(photos, tmp_path / "first")
    second = run(photos, tmp_path / "second", seed=1, earlier=tmp_path / "first")
    line = second.facts["comparison"][-1]
    assert (line["model"], line["split"], line["n"]) == ("earlier run first", "test", 12)
    assert line["value"] == first.headline["value"]
    for split in ("train", "test"):
        shutil.rmtree(photos / split / "red")
    with pytest.raises(UserError, match="other classes"):
        run(photos, tmp_path / "third", earlier=tmp_path / "first")


def test_the_gallery_holds_errors_and_hits_with_their_pictures(photos: Path, tmp_path: Path) -> None:
    for path in list((photos / "test" / "red").iterdir())[:2]:  # two wrong labels
        path.rename(photos / "test" / "blue" / f"moved-{path.name}")
    facts = run(photos, tmp_path / "run", epochs=6).facts
    wrong = {(e["label"], e["prediction"]) for e in facts["gallery"]["errors"]}
    assert ("blue", "red") in wrong
    chances = [e["probability"] for e in facts["gallery"]["errors"]]
    assert chances == sorted(chances, reverse=True)
    unsure = [e["probability"] for e in facts["gallery"]["unsure"]]
    assert unsure == sorted(unsure)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 2 * len(chances) + len(unsure)  # an error has its map beside it
    sides = facts["calibration"]
    assert sum(b["n"] for b in sides["after"]["bins"]) == sum(b["n"] for b in sides["before"]["bins"]) == 12
    ece = next(r["value"] for r in facts["rows"] if r["metric"] == "ece" and r["dataset"].endswith("/test"))
    assert sides["after"]["ece"] == ece


def test_wrong_labels_are_suspected_from_the_features_of_the_probe(tmp_path: Path, backbone: Path) -> None:
    root = tmp_path / "data"
    for seed, (name, colour) in enumerate(COLOURS.items()):
        write_images(root / name, colour, 30, seed)
    moved = sorted((root / "red").iterdir())[:4]
    for path in moved:
        path.rename(root / "blue" / f"moved-{path.name}")
    facts = run(root, tmp_path / "run", model=backbone, overrides=MEAN_STD, epochs=1).facts["data"]["audit"]
    used = json.loads((tmp_path / "run" / "split.json").read_text())["train"]
    planted = {name for name in used if "moved-" in name}
    listed = facts["label_errors"][: len(planted)]
    assert {entry["name"] for entry in listed} == planted
    assert {(entry["given"], entry["suggested"]) for entry in listed} == {("blue", "red")}
    assert facts["label_check"]["listed"] == len(facts["label_errors"])


def test_predictions_never_overwrite_what_they_are_made_of_or_a_result_with_nothing(
    photos: Path, tmp_path: Path
) -> None:
    result = run(photos, tmp_path / "run", epochs=1)
    images = sorted((photos / "test").rglob("*.png"))
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{image},red\n" for image in images[:3]))
    before = table.read_text()
    quiet = Console(io.StringIO(), io.StringIO())
    with pytest.raises(UserError, match="one of the files to predict on"):
        vitkit.predict(result.bundle, table, out=table, console=quiet)
    assert table.read_text() == before

    out = tmp_path / "answers.csv"
    vitkit.predict(result.bundle, images, out=out, console=quiet)
    good = out.read_text()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for options in ({}, {"strict": True}):
        with pytest.raises(UserError, match="broken"):
            vitkit.predict(result.bundle, [broken], out=out, console=quiet, **options)
        assert out.read_text() == good
        assert not (tmp_path / "answers.csv.partial").exists()


def test_a_tie_with_the_probe_is_called_a_tie(flat: Path, tmp_path: Path) -> None:
    assert "tied with the probe" in _why_the_probe((0.9, -0.4), (0.9, -0.3))
    assert "ended below the probe" in _why_the_probe((0.8, -0.4), (0.9, -0.3))
    reason = run(flat, tmp_path / "run", settings={**QUICK, "lr": 0.0}).facts["release"]["reason"]
    assert "ended below the probe" in reason  # an untrained head knows nothing


def test_a_run_goes_on_with_the_data_it_began_with_only(flat: Path, tmp_path: Path) -> None:
    run(flat, tmp_path / "run", epochs=1)
    (tmp_path / "run" / "report.json").unlink()  # as if it had been stopped before
    Image.new("RGB", (16, 16)).save(next((flat / "red").iterdir()))
    with pytest.raises(UserError, match=r"the data of all changed since .*Restore the data"):
        vitkit.finetune(resume=tmp_path / "run", console=Console(io.StringIO(), io.StringIO()))
