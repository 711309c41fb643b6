"""`vit explain` from files to files: pictures, page, numbers, arrays, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from shared import shared_data
from vitkit.analysis.attention import attention_maps
from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.pixels import Preprocess
from vitkit.evals import map_check
from vitkit.jobs import explain as job
from vitkit.models.vit import VisionTransformer, ViTConfig

CLASSES = ("ant", "bee & wasp", "cat")


def bundle(folder: Path, **changes: Any) -> Path:
    """A small model with drawn weights."""
    extra = {name: changes.pop(name) for name in ("record", "task", "thresholds", "classes") if name in changes}
    config = ViTConfig(**{
        "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 48, "patch_size": (4, 4), "image_size": (16, 16),
        "num_classes": len(CLASSES), **changes,
    })  # fmt: skip
    model = VisionTransformer(config)
    model.init_weights(0)
    for head in (model.head, model.head_dist):
        if head is not None:
            head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    record = extra.pop(
        "record", Preprocess(config.image_size, mean=(0.5,) * config.in_channels, std=(0.5,) * config.in_channels)
    )
    classes = extra.pop("classes", CLASSES if config.num_classes == len(CLASSES) else None)
    return Bundle(model.eval(), record, classes, **extra).save(folder)


def photo(path: Path, width: int = 60, height: int = 40, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return bundle(tmp_path / "model")


def run(model: Any, images: Any, out: Any = None, **options: Any) -> tuple[Any, str, str]:
    """(result, what was said, what was warned of)."""
    said, warned = io.StringIO(), io.StringIO()
    options.setdefault("check", 0)
    result = vitkit.explain(model, images, out=out, console=Console(said, warned), **options)
    return result, said.getvalue(), warned.getvalue()


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def facts_of(folder: Path) -> Any:
    return json.loads((folder / "explain.json").read_text(encoding="utf-8", errors="surrogateescape"))


class Page(HTMLParser):
    """Links, pictures and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "a" and found["href"]:
            self.links.append(found["href"])
        if tag == "img":
            self.pictures.append(found)

    def handle_data(self, data: str) -> None:
        self.text += " " + data


def test_a_picture_of_each_image_a_page_and_numbers(model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photo(photos / "wide one.png", 90, 40)
    photo(photos / "tall.jpg", 40, 90, 1)
    (photos / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    result, said, warned = run(model, photos, out)
    assert sorted(path.name for path in out.iterdir()) == ["explain.json", "index.html", "tall.png", "wide one.png"]
    assert (result.written, result.skipped, result.folder, result.page) == (2, [], out, out / "index.html")
    assert "images    2 explained, 0 skipped" in said
    assert "notes.txt" in warned or "1 " in warned
    assert size_of(out / "wide one.png") == (270, 120)
    assert size_of(out / "tall.png") == (120, 270)
    facts = facts_of(out)
    assert facts["model"]["name"] == str(model)
    assert f"the model {model}, " in (out / "index.html").read_text()
    assert (facts["format"], facts["format_version"], facts["method"], facts["written"]) == (
        "vitkit-explain",
        1,
        "gradient",
        2,
    )
    tall, wide = facts["images"]
    assert [tall["path"], wide["path"]] == [str(photos / "tall.jpg"), str(photos / "wide one.png")]
    assert wide["seen"] == {"left": 25, "top": 0, "right": 65, "bottom": 40}
    assert wide["seen_share"] == pytest.approx(4 / 9)
    assert wide["size"] == {"height": 40, "width": 90}
    assert 25 <= wide["peak"]["x"] <= 65
    predicted = vitkit.predict(model, photos, top=3, console=Console(io.StringIO(), io.StringIO())).predictions
    for found, (path, prediction) in zip((tall, wide), predicted, strict=True):
        assert (found["path"], found["prediction"], found["probability"]) == (
            path,
            prediction.answer,
            prediction.probability,
        )
        assert [c["class"] for c in found["top"]] == list(prediction.classes)
        assert found["explained"] == [{"class": prediction.answer, "probability": prediction.probability}]
    page = Page(out / "index.html")
    assert [unquote(link) for link in page.links] == ["tall.png", "wide one.png"]
    assert all((out / unquote(link)).is_file() for link in page.links)
    assert len(page.pictures) == 4
    assert all(picture["alt"] and str(picture["src"]).startswith("data:image/jpeg") for picture in page.pictures)
    assert "script" not in page.tags
    assert "No evidence was computed (--check 0)" in page.text
    assert "The model sees 44.4 % of this image" in page.text


def test_maps_are_equal_however_they_are_asked_for(model: Path, tmp_path: Path) -> None:
    photos = [photo(tmp_path / f"{n}.png", 60 + n, 40, n) for n in range(5)]
    together, _, _ = run(model, photos)
    for path, one in zip(photos, together.explanations, strict=True):
        with Image.open(path) as image:
            (alone,) = run(model, image)[0].explanations
        np.testing.assert_array_equal(alone.values, one.values)
        assert (one.path, one.stem, alone.stem) == (str(path), path.stem, "image-1")
    a, b = tmp_path / "a", tmp_path / "b"
    run(model, photos, a, workers=1)
    run(model, photos, b, workers=4)
    for path in photos:
        assert (a / path.name).read_bytes() == (b / path.name).read_bytes()
        assert size_of(a / path.name) == together.explanations[photos.index(path)].picture.size


def test_layers_and_heads_get_files_of_their_own(model: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png")
    out = tmp_path / "out"
    run(model, path, out, method="attention", layers="all", heads=[1, 0], raw=True)
    names = {f"x.layer{layer}.head{head}.png" for layer in (0, 1) for head in (0, 1)}
    assert {p.name for p in out.iterdir()} == {"x.png", "x.npz", "index.html", "explain.json", *names}
    loaded = vitkit.load(model)
    images = loaded.preprocess(Image.open(path))[None]
    expected = attention_maps(loaded.model, images, [0, 1], [1, 0])[0].flatten(0, 1).numpy()
    with np.load(out / "x.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["maps"], expected, rtol=1e-5)
        np.testing.assert_allclose(arrays["map"], expected.mean(0), rtol=1e-5)
        assert (arrays["layers"].tolist(), arrays["heads"].tolist()) == ([0, 0, 1, 1], [1, 0, 1, 0])
        assert (arrays["box"].tolist(), arrays["size"].tolist()) == ([10, 0, 50, 40], [40, 60])
        assert arrays["map"].dtype == np.float32
    page = Page(out / "index.html")
    assert {unquote(link) for link in page.links} == {"x.png", *names}
    assert "layer 1, head 0" in page.text
    (found,) = facts_of(out)["images"]
    assert {part["file"] for part in found["parts"]} == names
    assert (found["explained"], found["raw"]) == ([], "x.npz")
    run(model, path, tmp_path / "one", method="attention", layers=[-1], heads=[0])
    assert not [p for p in (tmp_path / "one").iterdir() if "head" in p.name]


def test_equal_unsafe_and_tricky_names(model: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    given = [
        photo(root / "a" / "cat.png"), photo(root / "b" / "cat.png", seed=1), photo(root / "c" / "ä #1 50%.png"),
        photo(root / "c" / "<b>.png"), photo(root / "c" / "a&b'\".png"), photo(root / "c" / "index.png"),
    ]  # fmt: skip
    out = tmp_path / "out"
    _, said, _ = run(model, given, out)
    names = {"cat.png", "cat-2.png", "ä #1 50%.png", "_b_.png", "a&b'_.png", "index.png"}
    assert {p.name for p in out.glob("*.png")} == names
    assert f"{given[1]} is written as cat-2.png" in said
    page = Page(out / "index.html")
    assert {unquote(link) for link in page.links} == names
    assert not any("#" in link or " " in link for link in page.links)
    assert "<b>.png" in page.text
    assert [image["file"] for image in facts_of(out)["images"]][:2] == ["cat.png", "cat-2.png"]


def test_a_class_can_be_named(model: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png")
    by_name, by_number = (run(model, path, target=target)[0].explanations[0] for target in ("bee & wasp", "1"))
    np.testing.assert_array_equal(by_name.values, by_number.values)
    assert by_name.targets == (1,)
    assert by_name.explained[0][0] == "bee & wasp"
    other = run(model, path, target=2)[0].explanations[0]
    assert np.abs(other.values - by_name.values).max() > 0
    for target, message in (("bat", "no class 'bat'. Did you mean 'cat'"), (3, "there is no class 3: the model has 3")):
        with pytest.raises(UserError, match=message):
            run(model, path, target=target)
    with pytest.raises(UserError, match="--class is for --method gradient; rollout asks for no class"):
        run(model, path, target="ant", method="rollout")


def test_a_multi_label_model_explains_each_class_it_found(tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png")
    for thresholds, count in (((0.0, 0.0, 0.0), 3), ((1.0, 1.0, 1.0), 1)):
        name = f"many{count}"
        out = tmp_path / f"out{count}"
        run(bundle(tmp_path / name, task=MULTI, thresholds=thresholds), path, out)
        (found,) = facts_of(out)["images"]
        assert len(found["explained"]) == count
        assert [c["probability"] for c in found["explained"]] == sorted(
            (c["probability"] for c in found["explained"]), reverse=True
        )
        assert len(list(out.glob("x.class*.png"))) == (count if count > 1 else 0)
        assert found["labels"] == (list(CLASSES) if count > 1 else [])
    assert "none of the classes" in Page(tmp_path / "out1" / "index.html").text


def test_models_without_classes_roll_out(tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png")
    headless = bundle(tmp_path / "headless", num_classes=0, classes=None)
    with pytest.raises(UserError, match=r"no head.*--method rollout"):
        run(headless, path)
    out = tmp_path / "out"
    result, said, _ = run(headless, path, out, method="rollout", check=None)
    assert result.evidence is None
    assert "No evidence was computed: the model gives no classes" in said
    assert "gives features, not classes" in Page(out / "index.html").text
    assert facts_of(out)["images"][0]["prediction"] is None
    tokens = bundle(tmp_path / "tokens", pool="none")
    with pytest.raises(UserError, match="every token"):
        run(tokens, path, method="rollout")
    assert run(tokens, path, method="rollout", pool="mean")[0].written == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "mean", "cls_token": False},
        {"pool": "map", "cls_token": False},
        {"registers": 3},
        {"registers": 1, "distilled": True},
        {"image_size": (16, 28), "patch_size": (4, 7)},
        {"image_size": (18, 30)},
        {"position": "relative"},
        {"stem": (1,), "patch_size": (1, 1), "image_size": (24, 24)},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["gradient", "rollout", "attention"])
def test_every_kind_of_model(changes: dict[str, Any], method: str, tmp_path: Path) -> None:
    model = bundle(tmp_path / "model", **changes)
    result, _, _ = run(model, photo(tmp_path / "x.png", 70, 40), method=method)
    (one,) = result.explanations
    assert one.values.shape == vitkit.load(model).config.grid
    assert np.isfinite(one.values).all()
    assert one.values.min() >= 0
    assert one.values.max() > 0
    assert one.picture.size == (280, 160)


def test_the_maps_are_checked(model: Path, tmp_path: Path) -> None:
    photos = [photo(tmp_path / f"{n}.png", seed=n) for n in range(6)]
    result, said, _ = run(model, photos, tmp_path / "out", check=4)
    assert result.evidence.images == 4
    found = facts_of(tmp_path / "out")["evidence"]
    assert found["images"] == 4
    assert found["verdict"] == result.evidence.verdict
    assert result.evidence.verdict in said
    text = Page(tmp_path / "out" / "index.html").text
    assert "Over 4 images, taken evenly from all" in re.sub(r"\s+", " ", text)
    assert "lower is better" in text
    again, _, _ = run(model, photos, tmp_path / "again", check=4)
    assert again.evidence == result.evidence
    by_default, _, _ = run(model, photos, tmp_path / "default", check=None)
    assert by_default.evidence.images == 6
    assert run(model, photos[:2], check=50)[0].evidence.images == 2


def test_a_large_model_is_checked_where_that_is_asked_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [photo(tmp_path / f"{n}.png", seed=n) for n in range(12)]
    assert run(model, photos, check=None)[0].evidence.images == 10
    monkeypatch.setattr("vitkit.evals.map_check.MOST_MACS", 1e6)
    result, said, _ = run(model, photos, tmp_path / "out", check=None)
    assert result.evidence is None
    assert "with a model of this size it takes a while. Say --check 10" in said
    assert run(model, photos, check=3)[0].evidence.images == 3


@pytest.mark.parametrize(("count", "wanted", "expected"), [
    (6, 4, [0, 1, 3, 4]), (3, 9, [0, 1, 2]), (8, 4, [0, 2, 4, 6]), (100, 3, [0, 32, 64]), (1000, 4, [0, 256, 512, 768]),
    (5, 1, [0]),
])  # fmt: skip
def test_the_checked_images_are_taken_evenly(
    count: int, wanted: int, expected: list[int], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = run(model, photo(tmp_path / "x.png"))[0].explanations
    seen: list[int] = []

    def evidence(_model: Any, batches: Any, *_: Any, **__: Any) -> None:
        for images, targets in batches:
            assert len(images) == len(targets) <= 4
            seen.extend(targets.tolist())

    monkeypatch.setattr(map_check, "evidence", evidence)
    loaded = vitkit.load(model)
    checking = map_check.MapCheck(
        loaded, loaded.model, job.ask(loaded.model, "gradient"), wanted, Console(io.StringIO())
    )
    for number in range(count):
        checking.kept(dataclasses.replace(one, targets=(number,)))
        assert len(checking._kept) <= 2 * wanted
    checking.run()
    assert seen == expected


def test_what_cannot_be_used_is_listed(model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photo(photos / "good.png")
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("no image")
    out = tmp_path / "out"
    result, _, warned = run(model, photos, out)
    assert [Path(path).name for path, _ in result.skipped] == ["empty.png", "text.jpg"]
    assert "is empty" in warned
    assert [entry["reason"] for entry in facts_of(out)["skipped"]] == [reason for _, reason in result.skipped]
    assert "empty.png" in Page(out / "index.html").text
    with pytest.raises(UserError, match=r"empty.png: is empty \(--strict\)"):
        run(model, photos, tmp_path / "strict", strict=True)
    with pytest.raises(UserError, match=r"none of the 1 images can be used, the first: .*empty.png: is empty"):
        run(model, photos / "empty.png", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"none of the 1 images can be used, the first: image-1: .*0x0 pixels"):
        run(model, Image.new("RGB", (0, 0)))


def test_the_odd_images(model: Path, tmp_path: Path) -> None:
    odd = shared_data("odd_images", "files")
    result, _, _ = run(model, odd, tmp_path / "out", raw=True)
    assert result.written >= 45
    for found in facts_of(tmp_path / "out")["images"]:
        wide, high = size_of(tmp_path / "out" / found["file"])
        height, width = found["size"]["height"], found["size"]["width"]
        assert max(wide, high) <= 1600
        if min(wide, high) > 2:  # else rounding to whole pixels is all there is
            assert wide / high == pytest.approx(width / height, rel=0.02)


def test_images_of_other_channels(tmp_path: Path) -> None:
    model = bundle(tmp_path / "five", in_channels=5)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(30, 50, 5)).astype(np.float32))
    np.save(tmp_path / "y.npy", rng.normal(size=(30, 50, 4)).astype(np.float32))
    out = tmp_path / "out"
    result, _, _ = run(model, [tmp_path / "x.npy", tmp_path / "y.npy"], out)
    assert result.skipped == [(str(tmp_path / "y.npy"), "found 4 channels, expected 5")]
    assert size_of(out / "x.png") == (300, 180)
    assert run(model, rng.random((9, 9, 5), np.float32))[0].written == 1


def test_a_folder_that_holds_something_else_is_left_alone(model: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "in" / "cat.png")
    kept = path.read_bytes()
    with pytest.raises(UserError, match=r"already exists and holds something else. Choose another -o"):
        run(model, path, tmp_path / "in")
    out = tmp_path / "out"
    run(model, path, out)
    run(model, path, out, method="rollout")  # an earlier explanation is replaced
    assert facts_of(out)["method"] == "rollout"
    (out / "mine.png").write_bytes(b"")
    run(model, path, out, method="attention", layers="all", raw=True)
    assert (out / "cat.layer0.png").exists()
    run(model, photo(tmp_path / "in" / "dog.png"), out)
    assert {p.name for p in out.iterdir()} == {"dog.png", "mine.png", "explain.json", "index.html"}
    with pytest.raises(UserError, match="is in the folder to write to"):
        run(model, out / "dog.png", out)
    assert path.read_bytes() == kept
    with pytest.raises(UserError, match="it is a file, and -o names a folder"):
        run(model, path, path)


def test_a_place_that_cannot_be_written_to_is_told_before_the_model_is_opened(tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png")
    (tmp_path / "file").write_text("")
    for out, message in (
        (tmp_path / "file" / "a" / "b", r"cannot write to .*: Not a directory. Choose another -o"),
        (Path("/dev/null/x"), r"/dev/null/x: Not a directory"),
        (tmp_path / ("a" * 300), r"cannot write to .*: File name too long"),
        (tmp_path / "a\0b", r"cannot write to .*null byte"),
    ):
        with pytest.raises(UserError, match=message):
            run(tmp_path / "no model", path, out)


def test_a_run_that_was_stopped_can_be_repeated_in_its_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [photo(tmp_path / f"{n}.png", seed=n) for n in range(3)]
    out = tmp_path / "out"
    whole = job.explain_view

    def stopped(*args: Any) -> Any:
        if args[6] == "2":
            raise KeyboardInterrupt
        return whole(*args)

    with monkeypatch.context() as patched:
        patched.setattr(job, "explain_view", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(model, photos, out)
    assert (out / "0.png").is_file()  # what was written stays, before anything was listed
    assert not (out / "explain.json").exists()
    run(model, photos, out)
    assert facts_of(out)["written"] == 3
    assert not (out / "explain.json.partial").exists()


def test_a_number_counts_classes_that_are_called_by_numbers(tmp_path: Path) -> None:
    model, path = bundle(tmp_path / "digits", classes=("2", "0", "1")), photo(tmp_path / "x.png")
    for target, index in ((0, 0), (2, 2), (-1, 2), (np.int64(1), 1), ("2", 0), ("0", 1)):
        assert run(model, path, target=target)[0].explanations[0].targets == (index,)


def test_what_numpy_counts_is_taken_and_what_counts_nothing_refused(model: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png")
    (one,) = run(model, path, method="attention", layers=np.arange(2), heads=np.int64(1))[0].explanations
    assert [(found.layer, found.head) for found in one.maps] == [(0, 1), (1, 1)]
    for layers in (1.5, [0, 1.5], np.array([0.5])):
        with pytest.raises(UserError, match=r"--layers [01].5 is no layer"):
            run(model, path, method="attention", layers=layers)


def test_an_image_with_values_beyond_numbers_is_listed(tmp_path: Path) -> None:
    model = bundle(tmp_path / "two", in_channels=2)
    fine = np.random.default_rng(0).normal(size=(9, 9, 2)).astype(np.float32)
    for method in ("gradient", "rollout"):
        result, _, _ = run(model, [fine, fine * np.float32(1e37)], method=method)
        assert result.skipped == [
            ("image-2", "the model computes values that are not finite for it, so that it has no map")
        ]
        assert len(result.explanations) == 1


def test_a_class_among_others_has_the_map_that_it_has_alone(tmp_path: Path) -> None:
    path = photo(tmp_path / "x.png")
    model = bundle(tmp_path / "many", task=MULTI, thresholds=(0.0, 0.0, 0.0))
    (one,) = run(model, path)[0].explanations
    for found in one.maps:
        (alone,) = run(model, path, target=found.target)[0].explanations
        np.testing.assert_array_equal(alone.maps[0].values, found.values)


def test_what_is_no_image_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="explain takes paths, or PIL images and arrays"):
        run(model, [Image.new("RGB", (4, 4)), tmp_path])
    with pytest.raises(UserError, match=r"explain takes paths.*int"):
        run(model, 3)
    with pytest.raises(UserError, match="no images named"):
        run(model, [])
    with pytest.raises(UserError, match="no such file"):
        run(model, tmp_path / "nothing.png")
    with pytest.raises(UserError, match="--workers must be at least 1"):
        run(model, tmp_path, workers=0)
    with pytest.raises(UserError, match="--check must be at least 0"):
        run(model, tmp_path, check=-1)


def test_many_images_are_streamed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more images are opened ahead of what is written than a few, and the page has pictures of a bounded number."""
    photos = [photo(tmp_path / f"{n:03}.png", 16, 16, n) for n in range(40)]
    opened, written, most = 0, 0, 0
    own_open, own_draw = job.open_view, job.draw_files

    def counted_open(*args: Any, **kwargs: Any) -> Any:
        nonlocal opened, most
        opened += 1
        most = max(most, opened - written)
        return own_open(*args, **kwargs)

    def counted_draw(*args: Any) -> Any:
        nonlocal written
        drawn = own_draw(*args)
        written += 1
        return drawn

    monkeypatch.setattr(job, "open_view", counted_open)
    monkeypatch.setattr(job, "draw_files", counted_draw)
    monkeypatch.setattr(job, "SHOWN", 10)
    out = tmp_path / "out"
    run(model, photos, out)
    assert written == 40
    assert most <= 10
    page = Page(out / "index.html")
    assert len(page.pictures) == 20
    assert "30 more images" in page.text
    assert len(facts_of(out)["images"]) == 40


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = photo(tmp_path / "x.png")
    options = ["--method", "attention", "--layers", "0,-1", "--heads", "all", "--check", "2", "--raw"]
    assert main(["explain", str(model), str(path), "-o", str(tmp_path / "out"), *options, "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts == facts_of(tmp_path / "out")
    assert (facts["layers"], facts["heads"], facts["evidence"]["images"]) == ([0, 1], [0, 1], 1)
    assert "page" in said.err
    assert main(["explain", str(model), str(path), "-o", str(tmp_path / "b"), "--class", "dog", "--check", "0"]) == 1
    assert "the model has no class 'dog'" in capsys.readouterr().err
    assert (
        main(["explain", str(model), str(path), "-o", str(tmp_path / "b"), "--method", "attention", "--layers", "7"])
        == 1
    )
    assert "there is no layer 7: the model has 2" in capsys.readouterr().err


def test_the_default_folder(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photo(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    for name in ("explain", "explain-2"):
        assert main(["explain", str(model), str(path), "--check", "0"]) == 0
        assert (tmp_path / "runs" / name / "x.png").is_file()


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium binary")
def test_the_page_fits_a_phone(model: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    photos = [photo(tmp_path / ("a_long_name_" * 9 + ".png"), 300, 20), photo(tmp_path / "tall.png", 9, 400)]
    out = tmp_path / "out"
    run(model, photos, out, method="attention", layers="all", heads="all", check=2)
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.on("request", lambda request: asked.append(request.url))
        page.goto((out / "index.html").as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        broken = page.evaluate(
            "[...document.images].filter(i => { i.loading = 'eager'; return i.complete && !i.naturalWidth; }).length"
        )
        page.click("a[href^=tall] img")
        arrived = page.url
        browser.close()
    assert (wide, broken) == (360, 0)
    assert arrived == (out / "tall.png").as_uri()
    assert all(url.startswith(("file:", "data:")) for url in asked)
