"""ImageNet from the organisers' containers. The stand-ins are written by tarfile and scipy; the labels go through the development
kit, whose numbers are in another order than the classes, as in the published one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import shifted
from standins import jpeg, pack_tar, unpack, write_tar
from vitkit.config import UserError
from vitkit.data.classnames import class_wnids
from vitkit.data.containers import read_bytes
from vitkit.data.pixels import open_image
from vitkit.datasets.book import find_dataset, read_data
from vitkit.datasets.imagenet import training, validation

scipy_io = pytest.importorskip("scipy.io", reason="needs scipy")

WNIDS = class_wnids()
IDS = {
    wnid: (7 * place + 13) % 1000 + 1 for place, wnid in enumerate(WNIDS)
}  # a permutation that is not the classes' order
CLASSES = [999, 0, 417, 0, 3]  # of validation images 1 to 5


def write_kit(folder: Path, classes: list[int], *, packed: bool = True) -> None:
    """The development kit: 1,000 leaves and two inner nodes of the hierarchy, as records of the published fields."""
    kinds = [
        ("ILSVRC2012_ID", "O"),
        ("WNID", "O"),
        ("words", "O"),
        ("gloss", "O"),
        ("num_children", "O"),
        ("children", "O"),
    ]
    rows = sorted((IDS[wnid], wnid, "a, b", "what it is", 0, 0) for wnid in WNIDS)
    rows += [(1001, "n00001740", "entity", "-", 2, np.array([1, 2])), (1002, "n00001930", "thing", "-", 1, 3)]
    synsets = np.zeros((len(rows), 1), dtype=kinds)
    for place, row in enumerate(rows):
        synsets[place, 0] = row
    mat = io.BytesIO()
    scipy_io.savemat(mat, {"synsets": synsets})
    truth = "".join(f"{IDS[WNIDS[label]]}\n" for label in classes).encode()
    kit = {"data/meta.mat": mat.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": truth}
    members = [(f"ILSVRC2012_devkit_t12/{name}", content) for name, content in kit.items()]
    write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", members) if packed else unpack(folder, members)


@pytest.fixture(params=["tar", "flat", "folders"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Five validation images as the organisers pack them, unpacked, and sorted into class folders."""
    images = [(f"ILSVRC2012_val_{i:08}.JPEG", jpeg(40 * i)) for i in (3, 1, 5, 2, 4)]
    if request.param == "tar":
        write_tar(tmp_path / "ILSVRC2012_img_val.tar", images)
        write_kit(tmp_path, CLASSES)
    for name, content in images if request.param != "tar" else ():
        wnid = WNIDS[CLASSES[int(name[15:23]) - 1]]
        path = tmp_path / "val" / (name if request.param == "flat" else f"{wnid}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if request.param == "flat":
        write_kit(tmp_path, CLASSES, packed=False)
    return tmp_path


def test_validation_images_come_in_the_official_order_with_the_classes_of_the_kit(folder: Path) -> None:
    samples = validation(folder)
    assert [sample.name for sample in samples] == [f"val/ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 6)]
    assert [sample.label for sample in samples] == CLASSES
    reds = [np.asarray(open_image(sample.source))[0, 0, 0] for sample in samples]
    assert np.allclose(reds, [40, 80, 120, 160, 200], atol=3)


def test_a_part_is_refused_or_noted_and_the_other_split_may_be_absent(folder: Path) -> None:
    with pytest.raises(UserError, match=r"images found of images published: val 5 of 50,000\. .*--partial"):
        read_data(f"imagenet={folder}")
    source = read_data("imagenet", root=_named(folder), partial=True)
    assert source.classes == WNIDS
    assert set(source.splits) == {"val"}
    assert source.notes == ("a part of ImageNet only, not comparable with published figures: val 5 of 50,000",)
    assert find_dataset("imagenet").counts == {"train": 1_281_167, "val": 50_000}


def test_real_takes_the_same_images_in_each_layout(folder: Path) -> None:
    """ImageNet-ReaL: labels by the number of the image, not by the class of its folder or in the kit."""
    shifted.real(folder, {0: [1], 2: [5, 3, 5], 4: [], 7: [9]})
    source = read_data(f"imagenet_real={folder}", partial=True)
    assert source.multilabel
    assert source.classes == WNIDS
    assert [(s.name, s.labels) for s in source.splits["val"]] == [
        (f"val/ILSVRC2012_val_{i:08}.JPEG", labels) for i, labels in enumerate([(1,), (), (3, 5), (), ()], 1)
    ]
    reds = [np.asarray(open_image(sample.source))[0, 0, 0] for sample in source.splits["val"]]
    assert np.allclose(reds, [40, 80, 120, 160, 200], atol=3)
    assert source.notes == ("a part of ImageNet-ReaL only, not comparable with published figures: val 5 of 50,000",)
    with pytest.raises(UserError, match=r"val 5 of 50,000\. .*--partial"):
        read_data(f"imagenet_real={folder}")


def test_real_without_images_says_what_was_expected(tmp_path: Path) -> None:
    shifted.real(tmp_path, {})
    with pytest.raises(UserError, match=r"ImageNet in .*: no ILSVRC2012_img_val\.tar and no val/") as caught:
        read_data(f"imagenet_real={tmp_path}")
    assert "Expected of ImageNet-ReaL: real.json of google-research/reassessed-imagenet beside" in str(caught.value)


def _named(folder: Path) -> Path:
    root = folder.parent / f"{folder.name}-root"
    root.mkdir()
    (root / "imagenet").symlink_to(folder)
    return root


@pytest.mark.parametrize("kind", ["tar of tars", "folder of tars", "folders"])
def test_training_images_of_each_layout(tmp_path: Path, kind: str) -> None:
    wnids = [WNIDS[5], WNIDS[2]]
    images = {wnid: [(f"{wnid}_{i}.JPEG", jpeg(60 * i)) for i in (1, 2)] for wnid in wnids}
    packed = {}
    for wnid, members in images.items():
        packed[f"{wnid}.tar"] = pack_tar(members)
    if kind == "tar of tars":
        write_tar(tmp_path / "ILSVRC2012_img_train.tar", packed.items())
    (tmp_path / "train").mkdir() if kind != "tar of tars" else None
    for name, content in packed.items() if kind == "folder of tars" else ():
        (tmp_path / "train" / name).write_bytes(content)
    for wnid, members in images.items() if kind == "folders" else ():
        (tmp_path / "train" / wnid).mkdir()
        for name, content in members:
            (tmp_path / "train" / wnid / name).write_bytes(content)
    samples = training(tmp_path)
    assert sorted((s.name, s.label) for s in samples) == [
        (f"train/{wnid}/{wnid}_{i}.JPEG", label)
        for label, wnid in sorted((WNIDS.index(w), w) for w in wnids)
        for i in (1, 2)
    ]
    for sample in samples:
        assert read_bytes(sample.source) == jpeg(60 * int(sample.name[-6]))


def test_wrong_layouts_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere; expected ILSVRC2012_img_val\.tar with"):
        read_data(f"imagenet={tmp_path / 'nowhere'}")
    (tmp_path / "photos").mkdir()
    with pytest.raises(
        UserError, match=r"ImageNet in .*: no ILSVRC2012_img_val\.tar and no val/; expected .*The folder holds: photos"
    ):
        read_data(f"imagenet={tmp_path}")
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", [("ILSVRC2012_val_00000001.JPEG", jpeg(1))])
    with pytest.raises(
        UserError, match=r"no ILSVRC2012_devkit_t12\.tar\.gz, which says the classes of the validation images"
    ):
        validation(tmp_path)
    write_kit(tmp_path, CLASSES)
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", [("cat.JPEG", jpeg(1))])
    with pytest.raises(UserError, match=r"holds cat\.JPEG; expected the organisers' names, ILSVRC2012_val_00000001"):
        validation(tmp_path)
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", [("ILSVRC2012_val_00000009.JPEG", jpeg(1))])
    with pytest.raises(UserError, match=r"ILSVRC2012_val_00000009\.JPEG of the class none, which is none of the 1,000"):
        validation(tmp_path)


def test_a_kit_of_another_layout_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", [("ILSVRC2012_val_00000001.JPEG", jpeg(1))])
    write_kit(tmp_path, CLASSES, packed=False)
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("5000\n")
    with pytest.raises(UserError, match=r"KeyError: 5000\); expected data/meta\.mat with ILSVRC2012_ID and WNID"):
        validation(tmp_path)
    scipy_io.savemat(data / "meta.mat", {"other": 1})
    with pytest.raises(UserError, match=r"meta\.mat has no variable 'synsets'; it holds other\."):
        validation(tmp_path)
    (data / "meta.mat").write_bytes(b"no matlab file")
    with pytest.raises(UserError, match=r"meta\.mat cannot be read as a MATLAB file of version 5"):
        validation(tmp_path)
    (data / "meta.mat").unlink()
    with pytest.raises(UserError, match=r"has no data/meta\.mat"):
        validation(tmp_path)


def test_unknown_classes_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val" / "n99999999").mkdir(parents=True)
    (tmp_path / "val" / "n99999999" / "ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg(1))
    with pytest.raises(UserError, match="of the class n99999999, which is none of the 1,000 WordNet ids"):
        validation(tmp_path)
    (tmp_path / "train" / "cats").mkdir(parents=True)
    with pytest.raises(UserError, match="has the class 'cats', which is none of the 1,000 WordNet ids"):
        training(tmp_path)
    (tmp_path / "train" / "cats").rename(tmp_path / "train" / WNIDS[0])
    with pytest.raises(UserError, match="train holds no images; expected"):
        training(tmp_path)
    write_tar(tmp_path / "other.tar", [("a.JPEG", jpeg(1))])
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    (tmp_path / "other.tar").rename(tmp_path / "ILSVRC2012_img_train.tar")
    with pytest.raises(UserError, match=r"holds a\.JPEG; expected a tar file for each WordNet id"):
        training(tmp_path)
