"""The robustness protocol on stand-ins whose labels are chosen by the model's own ranks, so that the right counts are known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import shifted
from shifted import KINDS, WNIDS, class_folders, noise, pixels
from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.classnames import class_names
from vitkit.data.pixels import Preprocess
from vitkit.data.samples import Sample
from vitkit.datasets.corruptions import ALEXNET
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.protocols.request import Request
from vitkit.protocols.robustness import SETS, run
from vitkit.report import Row

NAMES = class_names("imagenet1k")


def make_bundle(classes: tuple[str, ...] | None, outputs: int = 1000, **changes: Any) -> Bundle:
    config = ViTConfig(
        embed_dim=8, depth=1, num_heads=1, mlp_dim=8, patch_size=(8, 8), image_size=(16, 16), num_classes=outputs
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    model.head.weight.data.normal_(std=3, generator=torch.Generator().manual_seed(1))
    return Bundle(model, changes.pop("record", Preprocess((16, 16))), classes, source="a test", **changes)


def order_of(bundle: Bundle, picture: np.ndarray, among: list[int] | None = None) -> list[int]:
    """Classes from the greatest logit to the least, by the plainest way: a Pillow image, the model itself, sorting."""
    with torch.inference_mode():
        logits = bundle.model.eval()(bundle.preprocess(Image.fromarray(picture))[None])[0].tolist()
    return sorted(range(len(logits)) if among is None else among, key=lambda k: (-logits[k], k))


@pytest.fixture(scope="module")
def named() -> Bundle:
    return make_bundle(NAMES)


@pytest.fixture(scope="module")
def model(named: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(named.save(tmp_path_factory.mktemp("robust") / "model"))


def scored(model: str, data: str, **options: Any) -> tuple[dict[tuple[str, str], Row], str]:
    out = io.StringIO()
    options.setdefault("partial", True)
    rows = run(Request(model, data, **options), Console(out, out))
    assert all(row.task == "robustness" and row.model == model for row in rows)
    found = {(row.dataset, row.metric): row for row in rows}
    assert len(found) == len(rows)
    return found, out.getvalue()


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_a_and_r_choose_among_their_200_classes_only(name: str, named: Bundle, model: str, tmp_path: Path) -> None:
    classes = list(range(4, 1000, 5))
    labels, free = {}, []
    for number in range(120):
        order = order_of(named, pixels(number), classes)
        labels[number] = WNIDS[order[(0, 0, 3, 7)[number % 4]]]
        free.append(order_of(named, pixels(number))[0] == order[0])
    assert not all(free)  # the whole set of classes would give another answer
    class_folders(tmp_path, labels)
    used = set(labels.values())
    spare = 1000
    for index in classes:  # the published set has all of its 200 folders
        if WNIDS[index] not in used:
            (tmp_path / WNIDS[index]).mkdir()
            order = order_of(named, pixels(spare), classes)
            while order[0] == index or index in order[:5]:  # a wrong answer, also of five
                spare += 1
                order = order_of(named, pixels(spare), classes)
            (tmp_path / WNIDS[index] / f"{spare}.png").write_bytes(noise(spare))
            labels[spare] = WNIDS[index]
            spare += 1
    found, said = scored(model, f"{name}={tmp_path}")
    n = len(labels)
    assert found[f"{name}/test", "top1"].value == 60 / n
    assert found[f"{name}/test", "top5"].value == 90 / n
    row = found[f"{name}/test", "top1"]
    assert row.n == n
    assert row.low is not None
    assert row.low < row.value < row.high
    assert "a part of ImageNet-" in row.label
    assert f"{n} scored, 0 skipped" in said


def test_v2_is_scored_on_all_classes_whatever_order_the_model_has_them_in(
    named: Bundle, model: str, tmp_path: Path
) -> None:
    hits = 0
    for number in range(0, 1000, 10):  # 9, 10, 90 and 100 stand in another order as text
        hits += order_of(named, pixels(number))[0] == number
        class_folders(tmp_path / "v2", {number: str(number)})
    more = {5000 + n: str(order_of(named, pixels(5000 + n))[0]) for n in range(60)}
    class_folders(tmp_path / "v2", more)
    found, _ = scored(model, f"imagenet_v2={tmp_path / 'v2'}")
    assert found["imagenet_v2/test", "top1"].value == (60 + hits) / 160
    order = np.random.default_rng(0).permutation(1000)
    other = make_bundle(tuple(WNIDS[index] for index in order))
    for part in ("weight", "bias"):
        tensor = getattr(other.model.head, part).data
        tensor.copy_(getattr(named.model.head, part).data[torch.from_numpy(order)])
    again, _ = scored(str(other.save(tmp_path / "other")), f"imagenet_v2={tmp_path / 'v2'}")
    assert again["imagenet_v2/test", "top1"].value == found["imagenet_v2/test", "top1"].value
    assert again["imagenet_v2/test", "top5"].value == found["imagenet_v2/test", "top5"].value


def test_real_accepts_any_label_and_leaves_images_without_out(
    named: Bundle, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [order_of(named, pixels(number)) for number in range(6)]
    labels = {
        0: [orders[0][0]],
        1: [orders[1][500], orders[1][0]],
        2: [],
        3: [orders[3][2], orders[3][9]],
        4: [orders[4][7]],
    }
    shifted.real(tmp_path, labels)
    names = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(6)]
    for number, name in enumerate(names):
        shifted.put(tmp_path / "val" / name, noise(number))
    shifted.validation(monkeypatch, lambda folder: [Sample(name, folder / "val" / name, 0) for name in names])
    found, said = scored(model, f"imagenet_real={tmp_path}")
    assert (found["imagenet_real/val", "top1"].value, found["imagenet_real/val", "top5"].value) == (2 / 4, 3 / 4)
    assert found["imagenet_real/val", "top1"].n == 4
    assert "2 without labels left out" in said
    shifted.real(tmp_path, {})
    with pytest.raises(UserError, match="none of the 6 images has a label"):
        scored(model, f"imagenet_real={tmp_path}")


def test_objectnet_is_seen_without_its_border_and_any_meaning_is_right(
    named: Bundle, model: str, tmp_path: Path
) -> None:
    objects: dict[str, list[int]] = {}
    images: dict[str, list[int]] = {}
    for place in range(113):  # every label means the answer to its image and one more class, or neither
        order = order_of(named, pixels(place))
        wanted = [order[900], order[0]] if place % 3 == 0 else [order[3]] if place % 3 == 1 else [order[990]]
        label = f"Object {place:03d}"
        objects[label], images[label] = wanted, [place]
    shifted.objectnet(tmp_path, objects, images)
    found, _ = scored(model, f"objectnet={tmp_path}")
    assert found["objectnet/test", "top1"].value == 38 / 113
    assert found["objectnet/test", "top5"].value == 76 / 113
    assert "the copy's own files say" in found["objectnet/test", "top1"].label


def test_an_objectnet_image_that_cannot_be_read_is_skipped(named: Bundle, model: str, tmp_path: Path) -> None:
    objects = {f"Object {place:03d}": [place] for place in range(113)}
    shifted.objectnet(tmp_path, objects, {label: [place] for place, label in enumerate(objects)})
    (tmp_path / "objectnet-1.0" / "images" / "object_007" / "00007.png").write_bytes(b"nothing")
    found, said = scored(model, f"objectnet={tmp_path}")
    assert found["objectnet/test", "top1"].n == 112
    assert "skipped images/object_007/00007.png" in said


def corrupted(root: Path, named: Bundle, kinds: tuple[str, ...], severities: int = 5) -> dict[str, list[float]]:
    """Images of each severity, four with the answer for their label in severity 1, one less in each that follows."""
    right: dict[str, list[float]] = {}
    for k, kind in enumerate(kinds):
        for severity in range(1, severities + 1):
            labels = {}
            for n in range(4):
                number = 1000 * k + 10 * severity + n
                labels[number] = WNIDS[order_of(named, pixels(number))[0 if n < 5 - severity else 50]]
            class_folders(root / kind / str(severity), labels)
            right.setdefault(kind, []).append((5 - severity) / 4)
    return right


def test_imagenet_c_gives_each_severity_each_corruption_and_the_mce(named: Bundle, tmp_path: Path) -> None:
    cropping = make_bundle(NAMES, record=Preprocess((16, 16), crop_fraction=0.875))  # the images are cut already
    model = str(cropping.save(tmp_path / "model"))
    right = corrupted(tmp_path / "c", named, (*KINDS, "spatter"))
    found, said = scored(model, f"imagenet_c={tmp_path / 'c'}")
    assert "they are taken whole, not cut to 0.875 again" in said
    for kind, values in right.items():
        for severity, value in enumerate(values, 1):
            assert found[f"imagenet_c/{kind}/{severity}", "top1"].value == value
        assert found[f"imagenet_c/{kind}", "top1"].value == pytest.approx(np.mean(values))
    assert ("imagenet_c/spatter", "ce") not in found
    assert found["imagenet_c/fog", "ce"].value == pytest.approx(0.5 / 0.819324)
    assert found["imagenet_c", "top1"].value == pytest.approx(0.5)
    assert found["imagenet_c", "mce"].value == pytest.approx(sum(0.5 / error for error in ALEXNET.values()) / 15)
    assert found["imagenet_c", "mce"].n == 15 * 5 * 4
    one, _ = scored(model, f"imagenet_c={tmp_path / 'c'}", split="fog/2")
    assert list(one) == [("imagenet_c/fog/2", "top1"), ("imagenet_c/fog/2", "top5")]


def test_imagenet_c_without_all_corruptions_has_no_mce(named: Bundle, model: str, tmp_path: Path) -> None:
    corrupted(tmp_path, named, KINDS[:2])
    corrupted(tmp_path, named, KINDS[2:3], severities=2)
    found, said = scored(model, f"imagenet_c={tmp_path}")
    assert "no mean corruption error: not all five severities of impulse_noise, defocus_blur" in said
    assert ("imagenet_c", "mce") not in found
    assert ("imagenet_c/impulse_noise", "top1") not in found
    assert found["imagenet_c/shot_noise", "ce"].value == pytest.approx(0.5 / ALEXNET["shot_noise"])


VIZWIZ = list(range(2, 1000, 5))


def test_vizwiz_of_all_clean_and_corrupted_images(named: Bundle, model: str, tmp_path: Path) -> None:
    codes = ("NON", "OBS", "DRK", "BLR", "BRT", "ROT", "FRM")
    images, right = {}, {}
    for number in range(28):
        order = order_of(named, pixels(number), VIZWIZ)
        hit = number % 3 == 0
        images[number] = ([order[0], order[50]] if hit else [order[60]], [codes[number % 7]])
        right[number] = hit
    images[99] = ([], ["NON"])  # shows none of the classes
    shifted.vizwiz(tmp_path, VIZWIZ, images, labelled=True)
    found, said = scored(model, f"vizwiz_classification={tmp_path}")
    shares = [np.mean([right[n] for n in range(28) if n % 7 == k]) for k in range(7)]
    assert found["vizwiz_classification/all", "top1"].value == pytest.approx(np.mean(list(right.values())))
    assert found["vizwiz_classification/clean", "top1"].value == pytest.approx(shares[0])
    assert found["vizwiz_classification/framing", "top1"].value == pytest.approx(shares[6])
    assert found["vizwiz_classification/corrupted", "top1"].value == pytest.approx(np.mean(shares[1:]))
    assert found["vizwiz_classification/corrupted", "top1"].low is None
    assert "1 without labels left out" in said
    clean, _ = scored(model, f"vizwiz_classification={tmp_path}", split="clean")
    assert {dataset for dataset, _ in clean} == {"vizwiz_classification/clean"}
    assert clean["vizwiz_classification/clean", "top1"].value == pytest.approx(shares[0])


def test_vizwiz_without_labels_becomes_the_file_that_the_server_takes(
    named: Bundle, model: str, tmp_path: Path
) -> None:
    shifted.vizwiz(tmp_path / "set", VIZWIZ, {n: ([], []) for n in range(5)}, labelled=False)
    with pytest.raises(UserError, match=r"the publisher's server keeps them. Give --out DIR"):
        scored(model, f"vizwiz_classification={tmp_path / 'set'}")
    found, said = scored(model, f"vizwiz_classification={tmp_path / 'set'}", out=str(tmp_path / "out"))
    assert found == {}
    assert "cannot be scored here" in said
    written = json.loads((tmp_path / "out" / "vizwiz_predictions.json").read_text())
    assert written == [[f"VizWiz_val_{n:08d}.jpg", order_of(named, pixels(n), VIZWIZ)[0]] for n in range(5)]


def test_every_set_that_is_there_is_scored_and_the_others_are_named(named: Bundle, model: str, tmp_path: Path) -> None:
    corrupted(tmp_path / "imagenet_c", named, ("fog",), severities=1)
    shifted.vizwiz(tmp_path / "vizwiz_classification", VIZWIZ, {1: ([2], [])}, labelled=True)
    found, said = scored(model, "robustness", data_root=str(tmp_path))
    assert {dataset.split("/")[0] for dataset, _ in found} == {"imagenet_c", "vizwiz_classification"}
    assert "not there, so not scored: imagenet_v2, imagenet_v2_threshold" in said
    assert "the copy tells of no image as obscured" in said
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has none of the folders imagenet_v2, "):
        scored(model, "robustness", data_root=str(tmp_path / "empty"))
    (tmp_path / "imagenet_a").mkdir()
    with pytest.raises(UserError, match=r"ImageNet-A in .*: no class folders"):  # before anything is scored
        scored(model, "robustness", data_root=str(tmp_path))


def test_files_that_cannot_be_used_are_listed_and_with_strict_the_first_ends_it(
    named: Bundle, model: str, tmp_path: Path
) -> None:
    corrupted(tmp_path, named, ("fog",), severities=1)
    shifted.put(tmp_path / "fog" / "1" / WNIDS[0] / "broken.png", b"nothing")
    found, said = scored(model, f"imagenet_c={tmp_path}")
    assert found["imagenet_c/fog/1", "top1"].n == 4
    assert f"skipped fog/1/{WNIDS[0]}/broken.png" in said
    with pytest.raises(UserError, match=r"broken.png: .*\(--strict\)"):
        scored(model, f"imagenet_c={tmp_path}", strict=True)


def test_numbers_do_not_depend_on_workers(named: Bundle, model: str, tmp_path: Path) -> None:
    corrupted(tmp_path, named, ("fog", "snow"), severities=2)
    assert (
        scored(model, f"imagenet_c={tmp_path}", workers=1)[0] == scored(model, f"imagenet_c={tmp_path}", workers=3)[0]
    )


def test_wrong_data_and_splits_are_told(named: Bundle, model: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"does not know the data 'imagenet_x'.*Expected robustness .* or one of imagenet_v2"
    ):
        scored(model, "imagenet_x")
    with pytest.raises(UserError, match=r"where is imagenet_a\? Write imagenet_a=FOLDER"):
        scored(model, "imagenet_a")
    corrupted(tmp_path, named, ("fog",), severities=1)
    with pytest.raises(UserError, match="imagenet_c has no split 'fog/9'; it has fog/1"):
        scored(model, f"imagenet_c={tmp_path}", split="fog/9")
    with pytest.raises(UserError, match="is not the published one"):
        scored(model, f"imagenet_c={tmp_path}", partial=False)
    assert len(SETS) == 10


@pytest.mark.parametrize(
    ("classes", "outputs", "told"),
    [
        (None, 1000, "this one has 1,000 outputs without names"),
        (("cat", "dog"), 2, "this one has 2 classes, 2 of them unknown, the first 'cat'"),
        (tuple(NAMES[:999]), 999, "this one has 999 classes, and not each of them once"),
        ((*NAMES[:999], "a new thing"), 1000, "1 of them unknown, the first 'a new thing'"),
    ],
)
def test_models_of_other_classes_are_refused(
    classes: tuple[str, ...] | None, outputs: int, told: str, named: Bundle, tmp_path: Path
) -> None:
    corrupted(tmp_path / "c", named, ("fog",), severities=1)
    path = make_bundle(classes, outputs).save(tmp_path / "model")
    with pytest.raises(UserError, match=told):
        scored(str(path), f"imagenet_c={tmp_path / 'c'}")


def test_a_multi_label_model_is_refused(named: Bundle, tmp_path: Path) -> None:
    corrupted(tmp_path / "c", named, ("fog",), severities=1)
    path = make_bundle(NAMES, task=MULTI).save(tmp_path / "model")
    with pytest.raises(UserError, match="this one is multi-label"):
        scored(str(path), f"imagenet_c={tmp_path / 'c'}")
