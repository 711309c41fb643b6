"""`vit predict` over many images: every source and format, parts that are gone on with, and nothing else than what was asked."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitkit
from small_models import made
from tiny_tables import png, write_tar
from vitkit.bundle import Bundle
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.predicting.parts import Parts, part_size
from vitkit.unknown import fit_unknown

COUNT = 300
CLASSES = ("ape", "bee", "cat")


def quiet() -> Console:
    return Console(io.StringIO(), io.StringIO())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("models") / "model", CLASSES)


@pytest.fixture(scope="module")
def loaded(model: Path) -> Bundle:
    return Bundle.read(model)


def images(root: Path, count: int = COUNT) -> Path:
    """So many images of noise, one of which is none."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = root / f"{number % 3}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path, compress_level=0)
    (root / "1" / "bad.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("many") / "in")


def rows_of(out: Path) -> list[dict[str, Any]]:
    if out.suffix == ".csv":
        with out.open(newline="") as file:
            return [{**row, "probability": float(row["probability"])} for row in csv.DictReader(file)]
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    import pyarrow.parquet as pq

    return pq.read_table(out).to_pylist()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the next call end with Ctrl-C once so many parts are written."""

    def arm(parts: int) -> None:
        write, left = Parts.write, [parts]

        def counted(self: Parts, *given: Any) -> None:
            write(self, *given)
            left[0] -= 1
            if not left[0]:
                monkeypatch.setattr(Parts, "write", write)
                raise KeyboardInterrupt

        monkeypatch.setattr(Parts, "write", counted)

    return arm


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_many_images_are_answered_as_one_by_one(kind: str, loaded: Bundle, many: Path, tmp_path: Path) -> None:
    out = tmp_path / f"deep/out.{kind}"
    said = io.StringIO()
    done = vitkit.predict(loaded, many, out=out, top=2, console=Console(said, said))
    rows = rows_of(out)
    names = sorted(str(path) for path in many.rglob("*.png") if path.name != "bad.png")
    assert [row["path"] for row in rows] == names
    assert list(rows[0])[:3] == ["path", "prediction", "probability"]
    assert (done.written, done.num_skipped, [Path(name).name for name, _ in done.skipped]) == (COUNT, 1, ["bad.png"])
    skipped = (tmp_path / f"deep/out.{kind}.skipped.csv").read_text().splitlines()
    assert skipped == ["path,reason", f"{many}/1/bad.png,is not an image that can be read"]
    few = vitkit.predict(loaded, names[:3], top=2, console=quiet()).predictions
    for (_, wanted), row in zip(few, rows, strict=False):
        assert (row["prediction"], row["probability"]) == (wanted.answer, wanted.probability)
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f"{out.name}.skipped.csv"]
    assert "found 301 images" in said.getvalue()
    assert "300 predicted, 1 skipped" in said.getvalue()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_features_are_what_the_head_reads(kind: str, loaded: Bundle, many: Path, tmp_path: Path) -> None:
    vitkit.predict(loaded, many, out=tmp_path / f"out.{kind}", features=True, console=quiet())
    rows = rows_of(tmp_path / f"out.{kind}")
    few = vitkit.predict(loaded, many / "0", features=True, console=quiet())
    assert few.features is not None
    assert few.features.shape == (100, 32)
    assert np.array_equal(np.float32([row["features"] for row in rows[:100]]), few.features)
    logits = few.features @ loaded.model.head.weight.detach().numpy().T + loaded.model.head.bias.detach().numpy()
    assert [CLASSES[index] for index in logits.argmax(1)] == [row["prediction"] for row in rows[:100]]
    (tmp_path / "bad.png").write_bytes(b"x")
    nothing = vitkit.predict(loaded, tmp_path / "bad.png", features=True, console=quiet())
    assert nothing.features is not None
    assert (nothing.features.shape, nothing.num_skipped) == ((0, 32), 1)
    small = tmp_path / f"small.{kind}"
    vitkit.predict(loaded, many / "0", out=small, features=True, console=quiet())
    assert rows_of(small) == rows[:100]


def test_a_few_images_are_written_without_parts(
    loaded: Bundle, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parts, "create", lambda *_: pytest.fail("parts were made"))
    for kind in ("csv", "jsonl", "parquet"):
        assert vitkit.predict(loaded, many / "1", out=tmp_path / f"a.{kind}", console=quiet()).written == 100
        assert len(rows_of(tmp_path / f"a.{kind}")) == 100
    assert len(vitkit.predict(loaded, many, console=quiet()).predictions) == COUNT


@pytest.mark.parametrize("multilabel", [False, True])
def test_unknown_and_sets_of_classes_are_in_every_format(
    multilabel: bool, loaded: Bundle, many: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    more: dict[str, Any] = {"task": "multi-label", "thresholds": (0.1, 0.5, 0.9)} if multilabel else {}
    bundle = Bundle(
        loaded.model, loaded.preprocess_record, CLASSES,
        unknown=fit_unknown(rng.standard_normal((80, 32)), rng.standard_normal((40, 32))), **more,
    )  # fmt: skip
    found = {}
    for kind in ("csv", "jsonl", "parquet"):
        vitkit.predict(bundle, many, out=tmp_path / f"a.{kind}", top=3, console=quiet())
        found[kind] = rows_of(tmp_path / f"a.{kind}")
    for text, line, typed in zip(*found.values(), strict=True):
        assert text["path"] == line["path"] == typed["path"]
        assert text["prediction"] == line["prediction"] == typed["prediction"]
        assert text["probability"] == line["probability"] == typed["probability"]
        assert text["unknown"] == str(line["unknown"]).lower() == str(typed["unknown"]).lower()
        first = 1 if multilabel else 2
        for rank in range(first, 4):
            assert text[f"prediction_{rank}"] == line["top"][rank - 1]["class"] == typed[f"prediction_{rank}"]
            assert (
                float(text[f"probability_{rank}"])
                == line["top"][rank - 1]["probability"]
                == typed[f"probability_{rank}"]
            )
        assert ("prediction_1" in text) == ("prediction_1" in typed) == multilabel
        if multilabel:
            assert line["labels"] == typed["labels"] == [name for name in text["prediction"].split("|") if name]


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(
    loaded: Bundle, many: Path, tmp_path: Path, interrupted: Any
) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    vitkit.predict(loaded, many, out=whole, console=quiet())
    out.write_text("older\n")
    said = io.StringIO()
    interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        vitkit.predict(loaded, many, out=out, console=Console(said, said))
    assert "stopped: 2 of 5 parts are done and kept in" in said.getvalue()
    assert "run the same command again to go on" in said.getvalue()
    assert out.read_text() == "older\n"
    kept = {path.name: path.stat().st_mtime_ns for path in Path(f"{out}.parts").glob("part-*.csv")}
    assert len(kept) == 2
    interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        vitkit.predict(loaded, many, out=out, console=quiet())
    now = {path.name: path.stat().st_mtime_ns for path in Path(f"{out}.parts").glob("part-*.csv")}
    assert len(now) == 3
    assert kept.items() <= now.items()
    done = vitkit.predict(loaded, many, out=out, console=Console(said, said))
    assert "going on: 3 of 5 parts are done" in said.getvalue()
    assert (done.written, done.num_skipped) == (COUNT, 1)
    assert out.read_bytes() == whole.read_bytes()
    assert not Path(f"{out}.parts").exists()


def test_going_on_with_anything_else_is_refused(loaded: Bundle, model: Path, tmp_path: Path, interrupted: Any) -> None:
    data, out, place = images(tmp_path / "in", 250), tmp_path / "out.jsonl", tmp_path / "model"
    shutil.copytree(model, place)
    interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        vitkit.predict(place, data, out=out, engine="eager", console=quiet())

    def refused(**changes: Any) -> str:
        given = {"model": place, "paths": data, "out": out, "engine": "eager", "console": quiet(), **changes}
        with pytest.raises(UserError) as error:
            vitkit.predict(given.pop("model"), given.pop("paths"), **given)
        assert "Run it as before to go on with it, or add --restart to begin anew." in str(error.value)
        return str(error.value)

    assert "differs from it in --top (1 then, 3 now)." in refused(top=3)
    assert "--features (false then, true now)" in refused(features=True)
    assert "--max-pixels" in refused(max_pixels=10**6)
    assert "--engine (eager then, tuned now)" in refused(engine="tuned")
    assert "--override" in refused(overrides={"image_size": (20, 20)})
    assert "the images (251 then, 84 now: " in refused(paths=data / "1")
    assert "the model (" in refused(model=made(tmp_path / "other", ("x", "y", "z")))
    (data / "0/0000.png").write_bytes(png(5))
    assert f"the images (251 then, 251 now: {data}/0/0000.png was changed)" in refused()
    (data / "0/0000.png").unlink()
    assert f"the images (251 then, 250 now: {data}/0/0003.png in place of {data}/0/0000.png)" in refused()
    config = json.loads((place / "config.json").read_text())
    config["calibration"]["temperature"] = 2.0
    (place / "config.json").write_text(json.dumps(config))
    assert "the model (" in refused()
    assert vitkit.predict(place, data, out=out, engine="eager", restart=True, console=quiet()).written == 249
    assert not Path(f"{out}.parts").exists()


def test_other_things_in_the_place_of_parts_are_left_alone(loaded: Bundle, many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out.csv.parts"
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    for restart in (False, True):
        with pytest.raises(UserError, match=r"holds 'thesis\.tex', which is not a part"):
            vitkit.predict(loaded, many, out=tmp_path / "out.csv", restart=restart, console=quiet())
    assert (folder / "thesis.tex").exists()
    (folder / "thesis.tex").unlink()
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not of this version of vitkit\. Add --restart"):
        vitkit.predict(loaded, many, out=tmp_path / "out.csv", console=quiet())
    assert vitkit.predict(loaded, many, out=tmp_path / "out.csv", restart=True, console=quiet()).written == COUNT


def test_a_damaged_part_is_named(loaded: Bundle, many: Path, tmp_path: Path, interrupted: Any) -> None:
    out = tmp_path / "out.csv"
    interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        vitkit.predict(loaded, many, out=out, console=quiet())
    part = Path(f"{out}.parts/part-00001.csv")
    part.write_bytes(part.read_bytes()[:-200].rpartition(b"\n")[0] + b"\n")
    with pytest.raises(UserError, match=r"part-00001\.csv is damaged.*images 64 to 127.*Remove that file"):
        vitkit.predict(loaded, many, out=out, console=quiet())
    part.unlink()
    assert vitkit.predict(loaded, many, out=out, console=quiet()).written == COUNT


def test_images_that_change_after_they_were_listed_are_skipped(
    loaded: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = images(tmp_path / "in", 250), tmp_path / "out.csv"
    archive = write_tar(tmp_path / "x.tar", {f"{number}.png": png(number) for number in range(9)})
    create = Parts.create

    def later(self: Parts, *given: Any) -> Any:
        (data / "0/0000.png").unlink()
        (data / "0/0003.png").write_bytes(png(3))
        archive.write_bytes(archive.read_bytes()[:5000])
        return create(self, *given)

    monkeypatch.setattr(Parts, "create", later)
    done = vitkit.predict(loaded, [data, archive], out=out, console=quiet())
    reasons = {Path(name).name: reason for name, reason in done.skipped}
    assert (done.written, len(reasons)) == (248, 12)
    assert reasons["0000.png"] == "does not exist"
    changed = "cannot be read: it was changed after it was listed"
    assert {reasons[name] for name in ("0003.png", "0.png", "8.png")} == {changed}


def test_no_space_is_one_message_and_keeps_the_parts(
    loaded: Bundle, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fsync = tmp_path / "out.csv", os.fsync

    def full(name: str) -> None:
        def check(handle: int) -> None:
            if Path(os.readlink(f"/proc/self/fd/{handle}")).name == name:
                raise OSError(28, "No space left on device")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", check)

    for name, kept in (("part-00002.csv.partial", 2), ("out.csv.partial", 5)):
        full(name)
        message = rf"No space left on device.*{kept} of 5 parts are done and kept in .*: run the same command again"
        with pytest.raises(UserError, match=message):
            vitkit.predict(loaded, many, out=out, console=quiet())
        assert not list(tmp_path.rglob(name))
    monkeypatch.setattr(os, "fsync", fsync)
    assert vitkit.predict(loaded, many, out=out, console=quiet()).written == COUNT


def test_strict_refuses_also_what_an_earlier_run_skipped(
    loaded: Bundle, many: Path, tmp_path: Path, interrupted: Any
) -> None:
    out = tmp_path / "out.csv"
    with pytest.raises(UserError, match=r"bad\.png: .* \(--strict\)"):
        vitkit.predict(loaded, many, out=out, strict=True, console=quiet())
    interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        vitkit.predict(loaded, many, out=out, console=quiet())
    with pytest.raises(UserError, match=r"bad\.png: .* \(--strict\)"):
        vitkit.predict(loaded, many, out=out, strict=True, console=quiet())
    assert vitkit.predict(loaded, many, out=out, console=quiet()).num_skipped == 1


def test_parts_without_any_good_image_are_parts(loaded: Bundle, tmp_path: Path) -> None:
    for number in range(210):
        (tmp_path / f"{number:03d}.png").write_bytes(b"x")
    out = tmp_path / "out.parquet"
    with pytest.raises(UserError, match="none of the 210 files can be used"):
        vitkit.predict(loaded, tmp_path, out=out, features=True, console=quiet())
    assert not out.exists()
    assert len(Path(f"{out}.skipped.csv").read_text().splitlines()) == 211
    assert not Path(f"{out}.parts").exists()
    (tmp_path / "good.png").write_bytes(png())
    said = io.StringIO()
    done = vitkit.predict(loaded, tmp_path, out=out, features=True, console=Console(said, said))
    assert (done.written, done.num_skipped, len(rows_of(out))) == (1, 210, 1)
    assert said.getvalue().count("warning: skipped") == 100
    assert "more that are skipped" in said.getvalue()


def test_an_output_among_the_images_is_refused_or_left_out(loaded: Bundle, many: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = tmp_path / "shards"
    write_tar(folder / "a.tar", {f"{number}.png": png(number) for number in range(250)})
    for _ in range(2):  # the second time the output of the first lies there
        assert vitkit.predict(loaded, folder, out=folder / "out.parquet", console=quiet()).written == 250
    with pytest.raises(UserError, match="is one of the files to predict on"):
        vitkit.predict(loaded, [folder / "out.parquet"], out=folder / "out.parquet", console=quiet())


def test_the_same_name_twice_gives_two_rows(loaded: Bundle, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert vitkit.predict(loaded, [many, many / "0", many], out=out, console=quiet()).written == 700
    names = [row["path"] for row in rows_of(out)]
    assert names == [*names[:300], *names[:100], *names[:300]]


def test_the_command_line_says_what_it_cannot_do(
    model: Path, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*words: object) -> str:
        assert main(["predict", str(model), *map(str, words)]) == 1
        return capsys.readouterr().err

    image = many / "0/0000.png"
    assert "--features are written to .parquet or .jsonl files, not to CSV" in fails(
        image, "--features", "-o", tmp_path / "a.csv"
    )
    assert "--features are written to .parquet or .jsonl files: name one" in fails(image, "--features")
    assert "written as .csv or .jsonl or .parquet" in fails(image, "-o", tmp_path / "a.xlsx")
    out = tmp_path / "a.parquet"
    assert main(["predict", str(model), str(many), "-o", str(out), "--features", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["num_skipped"], len(told["skipped"])) == (COUNT, 1, 1)

    assert main(["predict", str(model), str(image), "--features", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"][0]["features"]) == 32

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "write", stop)
    assert main(["predict", str(model), str(many), "-o", str(out)]) == 130
    assert "0 of 5 parts are done" in capsys.readouterr().out


def test_parts_are_neither_many_nor_large() -> None:
    for images_, size in ((201, 64), (4096, 64), (4097, 128), (100_000, 1024), (10**6, 1024), (10**7, 4096)):
        assert part_size(images_) == size
        assert -(-images_ // size) <= 4096
