"""The images that an export is proved on: the run's own validation images, known by their content, or those that are named."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest

from jobs.test_export import CLASSES, bundle_of, draw
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.audit import digest
from vitkit.data.samples import Sample
from vitkit.exporting.images import find_images_to_check, spread
from vitkit.zoo.load import load_model


def a_run(folder: Path) -> Bundle:
    """A bundle in the folder of a run with 24 images, every fourth of which validated."""
    files = [draw(folder / "data" / CLASSES[n % 3] / f"{n}.png", n) for n in range(24)]
    names = {f"{path.parent.name}/{path.name}": path for path in files}
    digests = {name: digest(Sample(name, path, 0)) for name, path in names.items()}
    val = sorted(names)[::4]
    train = [name for name in sorted(names) if name not in val]
    run = folder / "run"
    training = {"data": {"digests": {"train": [digests[n] for n in train], "val": [digests[n] for n in val]}}}
    bundle_of(run / "model", training=training)
    (run / "arguments.json").write_text(json.dumps({"data": str(folder / "data"), "val": None}))
    (run / "split.json").write_text(json.dumps({"train": train, "val": val}))
    return load_model(run / "model")


def console() -> Console:
    return Console(StringIO(), StringIO())


def test_the_run_s_validation_images_are_found_and_8_bits_calibrate_on_its_training_images(tmp_path: Path) -> None:
    bundle = a_run(tmp_path)
    found = find_images_to_check(bundle, None, False, console())
    assert (len(found.samples), found.labelled, found.name, found.calibrating) == (
        6,
        True,
        "the run's 6 validation images",
        (),
    )
    assert {digest(sample) for sample in found.samples} == set(bundle.training["data"]["digests"]["val"])
    eight = find_images_to_check(bundle, None, True, console())
    assert (len(eight.samples), len(eight.calibrating)) == (6, 18)


def test_the_run_is_found_from_within_the_model_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(tmp_path)
    monkeypatch.chdir(tmp_path / "run" / "model")
    assert len(find_images_to_check(load_model("."), None, False, console()).samples) == 6


@pytest.mark.parametrize("what", ["gone", "changed", "run", "all"])
def test_images_that_are_gone_are_asked_for(tmp_path: Path, what: str) -> None:
    bundle = a_run(tmp_path)
    first = tmp_path / "data" / json.loads((tmp_path / "run" / "split.json").read_text())["val"][0]
    if what == "gone":
        first.unlink()
    elif what == "changed":
        draw(first, 99)
    elif what == "run":
        (tmp_path / "run" / "split.json").unlink()
    else:
        (tmp_path / "data").rename(tmp_path / "away")
    message = {"run": "the run that made this model is not beside it", "all": "cannot be read"}.get(
        what, "1 of the 6 validation images .* are gone .* or were changed"
    )
    with pytest.raises(UserError, match=rf"{message}.*--check DATA"):
        find_images_to_check(bundle, None, False, console())


def test_named_data_is_split_by_content_where_8_bits_need_some(tmp_path: Path) -> None:
    bundle = a_run(tmp_path)
    found = find_images_to_check(bundle, tmp_path / "data", True, console())
    assert len(found.samples) + len(found.calibrating) == 24
    assert found.calibrating
    again = find_images_to_check(bundle, tmp_path / "data", True, console())
    assert again == found
    with pytest.raises(UserError):
        find_images_to_check(bundle, tmp_path / "nothing", False, console())


def test_spread_takes_from_the_whole_length() -> None:
    assert spread(range(100), 5) == [0, 25, 50, 74, 99]
    assert spread([1, 2], 5) == [1, 2]
    assert spread([], 5) == []
