"""The robustness sets in their publishers' layouts; wrong ones are told what was expected."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shifted
from shifted import KINDS, WNIDS, archive, class_folders, noise, pixels
from vitkit.config import UserError
from vitkit.data.containers import read_bytes
from vitkit.data.pixels import open_image
from vitkit.data.samples import Sample
from vitkit.datasets.book import find_dataset, read_data
from vitkit.datasets.corruptions import ALEXNET
from vitkit.datasets.objectnet import Bordered, shared_classes

# AlexNet's errors of each severity, as timm.utils had them (imagenetc_alexnet_error_rates_list).
SEVERITY_ERRORS = (
    (0.69528, 0.82542, 0.93554, 0.98138, 0.99452), (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    (0.78374, 0.89808, 0.9487, 0.9872, 0.99548), (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    (0.64308, 0.75054, 0.88806, 0.91622, 0.93344), (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    (0.70008, 0.76992, 0.80784, 0.84198, 0.87198), (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    (0.6139, 0.79734, 0.8879, 0.89942, 0.9343), (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    (0.4514, 0.48502, 0.54048, 0.62166, 0.7244), (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    (0.52596, 0.70116, 0.55686, 0.64076, 0.80554), (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
)  # fmt: skip


def test_the_rows_say_what_was_published() -> None:
    counts = {
        "imagenet_v2": 10_000,
        "imagenet_a": 7_500,
        "imagenet_r": 30_000,
        "imagenet_sketch": 50_889,
        "objectnet": 18_574,
    }
    for name, images in counts.items():
        row = find_dataset(name)
        assert dict(row.counts) == {"test": images}
        assert row.licence
        assert row.source
        assert row.layout
    assert [find_dataset(name).classes for name in ("imagenet_a", "imagenet_r", "objectnet")] == [200, 200, 113]
    assert sum(find_dataset("imagenet_c").counts.values()) == 15 * 5 * 50_000


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in ("imagenet_a", "imagenet_r") for how in ("itself", "inside", "tar")),
        ("imagenet_sketch", "inside"),
    ],
)
def test_folders_of_wordnet_ids(name: str, how: str, tmp_path: Path) -> None:
    row = find_dataset(name)
    wnids = WNIDS if row.classes == 1000 else WNIDS[3:203]
    inside = {"imagenet_sketch": "sketch"}.get(name, name.replace("_", "-"))
    written = tmp_path / "set" / inside
    class_folders(written, dict(enumerate(wnids)), lambda _: noise(0))
    (written / "README.txt").write_text("read me")
    if how == "tar":
        folder = tmp_path / "tarred"
        folder.mkdir()
        archive(written, folder / f"{inside}.tar")
    else:
        folder = written if how == "itself" else written.parent
    source = row.open(folder, partial=True)
    assert source.classes == tuple(wnids)
    assert any(note.startswith(f"a part of {row.title} only") for note in source.notes)
    samples = source.splits["test"]
    assert [(s.label, Path(s.name).name) for s in samples] == [(n, f"{n:05d}.png") for n in range(len(wnids))]
    assert read_bytes(samples[5].source) == noise(0)
    with pytest.raises(UserError, match=f"test {len(wnids):,} of .* Fetch it again, or pass --partial"):
        row.open(folder)


@pytest.mark.parametrize("how", ["folder", "tar.gz"])
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("imagenet_v2", "matched-frequency"),
        ("imagenet_v2_threshold", "threshold0.7"),
        ("imagenet_v2_top", "top-images"),
    ],
)
def test_imagenet_v2_is_numbered_by_output_not_sorted_as_text(
    name: str, version: str, how: str, tmp_path: Path
) -> None:
    written = tmp_path / "set" / f"imagenetv2-{version}-format-val"
    numbers = (*range(12), 99, 100, 101, 998, 999)
    class_folders(written, {number: str(number) for number in numbers}, lambda _: noise(1))
    folder = written.parent
    if how == "tar.gz":
        folder = tmp_path / "tarred"
        folder.mkdir()
        archive(written, folder / f"imagenetv2-{version}.tar.gz")
    source = read_data(f"{name}={folder}", partial=True)
    assert source.classes == tuple(WNIDS)
    assert {Path(s.name).name: s.label for s in source.splits["test"]} == {f"{n:05d}.png": n for n in numbers}


def test_other_layouts_of_class_folders_are_told_what_was_expected(tmp_path: Path) -> None:
    row = find_dataset("imagenet_a")
    with pytest.raises(UserError, match=r"ImageNet-A: no folder .*nothing; expected imagenet-a/ with 200 folders"):
        row.open(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no class folders with images; expected imagenet-a/ .*holds: nothing"):
        row.open(tmp_path / "empty")
    class_folders(tmp_path / "cats", {0: "cat", 1: WNIDS[0]})
    with pytest.raises(UserError, match="'cat' is no WordNet id of ImageNet's 1,000 classes"):
        row.open(tmp_path / "cats", partial=True)
    class_folders(tmp_path / "few", {0: WNIDS[0]})
    with pytest.raises(UserError, match="has 1 classes, the published one 200"):
        row.open(tmp_path / "few", partial=True)
    class_folders(tmp_path / "split" / "train", {0: WNIDS[0]})
    class_folders(tmp_path / "split" / "test", {0: WNIDS[0]})
    with pytest.raises(UserError, match="class folders alone"):
        row.open(tmp_path / "split", partial=True)
    class_folders(tmp_path / "v2", {0: "0", 1: "n01440764", 2: "1000", 3: "007"})
    with pytest.raises(UserError, match="'007', '1000', 'n01440764' is no index from 0 to 999"):
        find_dataset("imagenet_v2").open(tmp_path / "v2", partial=True)


def validation_of(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shifted.validation(monkeypatch, lambda folder: [Sample(name, folder / name, 0) for name in names])


def test_real_labels_go_by_the_number_in_the_name_and_else_by_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted.real(tmp_path, {0: [1], 2: [5, 3, 5], 7: [9]})
    validation_of([f"val/n01440764/ILSVRC2012_val_{n:08d}.JPEG" for n in (3, 1, 2, 50_000)], monkeypatch)
    source = find_dataset("imagenet_real").open(tmp_path, partial=True)
    assert source.multilabel
    assert [s.labels for s in source.splits["val"]] == [(3, 5), (1,), (), ()]
    validation_of(["a.jpg", "b.jpg", "c.jpg"], monkeypatch)
    source = find_dataset("imagenet_real").open(tmp_path, partial=True)
    assert [s.labels for s in source.splits["val"]] == [(1,), (), (3, 5)]
    validation_of(["ILSVRC2012_val_00050001.JPEG"], monkeypatch)
    with pytest.raises(UserError, match="50,000 lists of labels, none for ILSVRC2012_val_00050001"):
        find_dataset("imagenet_real").open(tmp_path, partial=True)


def test_real_labels_of_another_form_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = find_dataset("imagenet_real")
    validation_of([], monkeypatch)
    with pytest.raises(UserError, match=r"no real.json; expected real.json of google-research/reassessed-imagenet"):
        row.open(tmp_path)
    for stored, told in (
        ([[1]], "holds 1 entries; expected a list of 50,000"),
        ({"a": 1}, "holds dict"),
        ([[1]] * 49_999 + [[1000]], r"entry 49999: \[1000\]"),
        ([[1]] * 49_999 + [[True]], "entry 49999"),
        ([[1]] * 49_999 + ["1"], "entry 49999"),
    ):
        (tmp_path / "real.json").write_text(json.dumps(stored))
        with pytest.raises(UserError, match=told):
            row.open(tmp_path)
    (tmp_path / "real.json").write_text("[[1], ")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        row.open(tmp_path)


@pytest.mark.parametrize("grouped", [False, True])
def test_imagenet_c_has_a_split_for_each_severity(grouped: bool, tmp_path: Path) -> None:
    for kind in (*KINDS, "spatter"):
        for severity in range(1, 6):
            root = tmp_path / ("noise" if grouped and "noise" in kind else "rest" if grouped else ".")
            folder = root / kind / str(severity)
            class_folders(folder, {1: WNIDS[0], 2: WNIDS[999]}, lambda _: noise(2))
    source = find_dataset("imagenet_c").open(tmp_path, partial=True)
    assert list(source.splits) == [f"{kind}/{s}" for kind in (*KINDS, "spatter") for s in range(1, 6)]
    split = source.splits["fog/3"]
    assert [(s.name, s.label) for s in split] == [
        (f"fog/3/{WNIDS[0]}/00001.png", 0), (f"fog/3/{WNIDS[999]}/00002.png", 999),
    ]  # fmt: skip
    assert read_bytes(split[1].source) == noise(2)
    assert split[-1:] == [split[1]]
    with pytest.raises(IndexError):
        split[2]
    with pytest.raises(UserError, match="gaussian_noise/1 2 of 50,000"):
        find_dataset("imagenet_c").open(tmp_path)


def test_other_layouts_of_imagenet_c_are_refused(tmp_path: Path) -> None:
    row = find_dataset("imagenet_c")
    with pytest.raises(
        UserError, match="no folder of a corruption with severities 1 to 5; expected CORRUPTION/SEVERITY/WNID"
    ):
        row.open(tmp_path)
    class_folders(tmp_path / "fog" / "1", {0: "cat"})
    with pytest.raises(UserError, match="'cat', no WordNet id"):
        row.open(tmp_path)
    class_folders(tmp_path / "weather" / "fog" / "1", {0: WNIDS[0]})
    with pytest.raises(UserError, match="has fog twice"):
        row.open(tmp_path)


def test_alexnets_errors_are_the_means_of_those_of_each_severity() -> None:
    assert list(ALEXNET) == list(KINDS)
    assert list(ALEXNET.values()) == pytest.approx(np.mean(SEVERITY_ERRORS, axis=1), abs=1e-9)


OBJECTS = {f"Object {n:03d}": [7 * n, 7 * n + 1] if n % 10 == 0 else [7 * n] for n in range(113)}


@pytest.fixture
def objectnet(tmp_path: Path) -> Path:
    return shifted.objectnet(tmp_path, OBJECTS, {label: [number] for number, label in enumerate(OBJECTS)})


def test_objectnet_reads_the_shared_classes_and_cuts_off_the_border(objectnet: Path) -> None:
    assert {label: list(indices) for label, indices in shared_classes(objectnet).items()} == OBJECTS
    for folder in (objectnet, objectnet / "objectnet-1.0"):
        source = find_dataset("objectnet").open(folder, partial=True)
        samples = source.splits["test"]
        assert [source.classes[s.label] for s in samples] == list(OBJECTS)
        shown = open_image(samples[4].source)
        assert np.array_equal(np.asarray(shown), pixels(4))  # nothing red is left
    assert any("own mappings" in note for note in source.notes)


def test_an_image_that_is_all_border_cannot_be_used(tmp_path: Path) -> None:
    Image.new("RGB", (4, 30)).save(tmp_path / "thin.png")
    with pytest.raises(UserError, match="nothing within its border"):
        open_image(Bordered(str(tmp_path / "thin.png")))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError):
        open_image(Bordered(str(tmp_path / "broken.png")))


def test_other_mappings_of_objectnet_are_refused(objectnet: Path, tmp_path: Path) -> None:
    row, maps = find_dataset("objectnet"), objectnet / "objectnet-1.0" / "mappings"
    whole = {path: path.read_bytes() for path in maps.iterdir()}
    for name, content, told in (
        ("objectnet_to_imagenet_1k.json", None, r"no mappings/objectnet_to_imagenet_1k.json; expected images/"),
        ("objectnet_to_imagenet_1k.json", b'{"Object 000": "a thing"}', "'Object 000' is said to be 'a thing'"),
        ("objectnet_to_imagenet_1k.json", b'["a"]', "expected an object whose values are all texts"),
        ("objectnet_to_imagenet_1k.json", b'{"Other": "name 5, other name 5"}', "names no folder for 'Other'"),
        ("folder_to_objectnet_label.json", None, "no mappings/folder_to_objectnet_label.json"),
        ("imagenet_to_label_2012_v2", None, "no mappings/imagenet_to_label_2012_v2"),
        ("pytorch_to_imagenet_2012_id.json", b'{"0": 1}', "expected the indices 0 to 999"),
        ("pytorch_to_imagenet_2012_id.json", b'{"0": ', "cannot be read as JSON"),
    ):
        (maps / name).unlink() if content is None else (maps / name).write_bytes(content)
        with pytest.raises(UserError, match=told):
            row.open(objectnet, partial=True)
        for path, before in whole.items():
            path.write_bytes(before)
    (objectnet / "objectnet-1.0" / "images").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="no images/"):
        row.open(objectnet, partial=True)


def test_objectnet_of_fewer_shared_classes_is_not_the_published_one(tmp_path: Path) -> None:
    shifted.objectnet(tmp_path, {"Chair": [1]}, {"Chair": [0]})
    with pytest.raises(UserError, match="has 1 classes, the published one 113"):
        find_dataset("objectnet").open(tmp_path, partial=True)


CLASSES = list(range(0, 1000, 5))


def test_vizwiz_as_it_is_released_has_no_labels(tmp_path: Path) -> None:
    shifted.vizwiz(tmp_path, CLASSES, {1: ([], []), 2: ([], [])}, labelled=False)
    source = find_dataset("vizwiz_classification").open(tmp_path, partial=True)
    assert source.classes == tuple(WNIDS[index] for index in CLASSES)
    assert [(s.name, s.labels) for s in source.splits["all"]] == [
        ("VizWiz_val_00000001.jpg", ()), ("VizWiz_val_00000002.jpg", ()),
    ]  # fmt: skip
    assert any("publisher's server keeps them" in note for note in source.notes)


def test_vizwiz_with_labels_and_flaws(tmp_path: Path) -> None:
    images = {1: ([5, 10], ["NON"]), 2: ([0], ["BLR", "ROT"]), 3: ([995], []), 4: ([], ["BLR"])}
    shifted.vizwiz(tmp_path, CLASSES, images, labelled=True)
    source = find_dataset("vizwiz_classification").open(tmp_path, partial=True)
    assert {split: [s.labels for s in samples] for split, samples in source.splits.items()} == {
        "all": [(1, 2), (0,), (199,), ()], "clean": [(1, 2)], "blurred": [(0,), ()], "rotated": [(0,)],
    }  # fmt: skip
    assert any("copy's own annotations.json" in note for note in source.notes)


def test_other_layouts_of_vizwiz_are_refused(tmp_path: Path) -> None:
    row = find_dataset("vizwiz_classification")
    with pytest.raises(UserError, match=r"no annotations.json; expected annotations.json with categories"):
        row.open(tmp_path)
    path, keys = tmp_path / "annotations.json", {str(index): place for place, index in enumerate(CLASSES)}
    path.write_text("[]")
    with pytest.raises(UserError, match="no images; expected"):
        row.open(tmp_path)
    (tmp_path / "images").mkdir()
    for stored, told in (
        ([], "holds a list"),
        ({"categories": [{"id": 1000}], "images": []}, "expected an id from 0 to 999"),
        ({"categories": [{"id": 1, "wordnet_id": "n01440764"}], "images": []}, "ImageNet's wordnet_id of it"),
        ({"categories": [{"id": 1}], "images": ["../a.jpg"]}, "not the name of a file in images/"),
        ({"categories": [{"id": 1}], "images": [3]}, "images must be names of files"),
        ({"a.jpg": {"labels": [0]}}, "no IN_to_VizWiz.json"),
    ):
        path.write_text(json.dumps(stored))
        with pytest.raises(UserError, match=told):
            row.open(tmp_path, partial=True)
    (tmp_path / "IN_to_VizWiz.json").write_text(json.dumps(keys))
    for stored, told in (
        ({"a.jpg": {"labels": [1]}}, r"a.jpg: labels are \[1\]; expected a list of the indices in IN_to_VizWiz.json"),
        ({"a.jpg": {"labels": None}}, "labels are None"),
        ({"a.jpg": [0]}, "labels are None"),
        ({"a.jpg": {"labels": [0], "flaws": {"XXX": True}}}, "expected some of OBS, DRK"),
    ):
        path.write_text(json.dumps(stored))
        with pytest.raises(UserError, match=told):
            row.open(tmp_path, partial=True)


def test_stand_ins_hold_the_pixels_they_say() -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(noise(3)))), pixels(3))
