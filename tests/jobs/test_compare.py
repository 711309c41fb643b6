"""`vit compare`: two models on the same images, against asking each of them image by image."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

import vitkit
from shifted import WNIDS
from small_models import made
from test_report import CHROMIUM, browse
from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.data.classnames import class_names
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import VisionTransformer, ViTConfig

NAMES = ("blue", "green", "red")


def make_bundle(
    seed: int, classes: tuple[str, ...] | None = NAMES, outputs: int | None = None, **changes: object
) -> Bundle:
    config = ViTConfig(
        embed_dim=8, depth=1, num_heads=1, mlp_dim=8, patch_size=(8, 8), image_size=(16, 16),
        num_classes=outputs or len(classes or NAMES),
    )  # fmt: skip
    model = VisionTransformer(config)
    model.init_weights(seed)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    return Bundle(model, Preprocess((16, 16)), classes, source="a test", licence="none", **changes)  # type: ignore[arg-type]


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Models whose answers differ, the second with its classes in another order."""
    return (
        str(make_bundle(1).save(tmp_path / "a")),
        str(make_bundle(2, ("red", "blue", "green")).save(tmp_path / "b")),
    )


def asked(model: str, image: Path) -> tuple[str, dict[str, float]]:
    """The answer to one image and every class's probability, by `predict`."""
    found = vitkit.load(model).predict(Image.open(image), top=3)[0]
    return found.answer, dict(zip(found.classes, found.probabilities, strict=True))


def test_everything_is_what_the_models_say_image_by_image(
    two: tuple[str, str], flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = sorted(flat.rglob("*.png"))
    said = [[asked(model, image) for image in images] for model in two]
    labels = [image.parent.name for image in images]
    right = np.array([[answer == label for (answer, _), label in zip(each, labels, strict=True)] for each in said])
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    nll = [np.mean([-np.log(p[label]) for (_, p), label in zip(each, labels, strict=True)]) for each in said]

    assert main(["compare", *two, str(flat), "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    facts = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert {name: printed[name] for name in facts} == facts
    assert printed["page"] == str(tmp_path / "out" / "compare.html")
    assert (facts["format"], facts["format_version"]) == ("vitkit-compare", 1)
    counts = facts["counts"]
    assert (counts["images"], counts["only_a"], counts["only_b"]) == (24, only_a, only_b)
    assert counts["both"] == int(right.all(0).sum())
    assert only_a + only_b > 3  # the case says something
    assert [m["value"] for m in facts["models"]] == pytest.approx(right.mean(1).tolist())
    assert [m["nll"] for m in facts["models"]] == pytest.approx(nll)
    assert facts["difference"]["value"] == pytest.approx((only_a - only_b) / 24)
    assert facts["difference"]["low"] < facts["difference"]["value"] < facts["difference"]["high"]
    assert facts["p"] == pytest.approx(binomtest(only_a, only_a + only_b).pvalue)
    assert facts["nll_difference"]["low"] < nll[0] - nll[1] < facts["nll_difference"]["high"]

    table = (tmp_path / "out" / "disagreements.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    wanted = []
    for place, image in enumerate(images):
        (first, p), (second, q) = said[0][place], said[1][place]
        if first != second:
            wins = "A" if right[0, place] else "B" if right[1, place] else "neither"
            name = image.relative_to(flat).as_posix()
            wanted.append([name, labels[place], first, f"{p[first]:.6f}", second, f"{q[second]:.6f}", wins])
    assert [list(row.values()) for row in rows] == wanted
    assert list(rows[0]) == ["path", "label", "a", "a_probability", "b", "b_probability", "right"]
    assert counts["differing"] == len(wanted)


def test_the_lines_for_a_person_and_the_numbered_folder(
    two: tuple[str, str],
    flat: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("compare-flat", "compare-flat-2"):
        assert main(["compare", *two, str(flat)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(
            re.fullmatch(rf"A: {re.escape(two[0])}: top-1 \d+\.\d% \[.*\], NLL \d\.\d{{4}}", line) for line in lines
        )
        assert any(
            re.fullmatch(r"A - B: [+-]\d+\.\d points of top-1 \[[+-]\d+\.\d, [+-]\d+\.\d\]", line) for line in lines
        )
        verdict = next(line for line in lines if line.startswith("verdict   "))
        assert re.search(r"\d+ against \d+ of the \d+ disagreements.*p (=|<) ", verdict)
        assert f"report    {Path('runs', folder, 'compare.html')}" in lines[-1]


def test_the_other_way_round_gives_mirrored_figures(two: tuple[str, str], flat: Path, tmp_path: Path) -> None:
    one, other = (
        vitkit.compare(*pair, flat, out=tmp_path / name).facts for pair, name in ((two, "ab"), (two[::-1], "ba"))
    )
    for key in ("p", "subtitle", "skipped"):
        assert one[key] == other[key]
    for key in ("difference", "nll_difference"):
        mirrored = (-other[key]["value"], -other[key]["high"], -other[key]["low"])
        assert tuple(one[key].values()) == pytest.approx(mirrored, abs=1e-12)
    swapped = {**other["counts"], "only_a": other["counts"]["only_b"], "only_b": other["counts"]["only_a"]}
    assert one["counts"] == swapped


def test_a_model_against_itself(two: tuple[str, str], flat: Path, tmp_path: Path) -> None:
    found = vitkit.compare(two[0], two[0], flat, out=tmp_path / "out")
    assert (found.facts["p"], found.facts["difference"]["value"], found.facts["counts"]["differing"]) == (1.0, 0.0, 0)
    assert found.facts["verdict"] == "no difference can be shown: both give the same answer to all 24 images"
    assert found.facts["nll_difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (found.folder / "disagreements.csv").read_text().count("\n") == 1
    assert found.page.read_text().count("No image.") == 3


def test_one_image_and_the_split_that_was_asked_for(two: tuple[str, str], photos: Path, tmp_path: Path) -> None:
    found = vitkit.compare(*two, photos, out=tmp_path / "out")
    assert (found.facts["data"]["split"], found.facts["counts"]["images"]) == ("test", 12)
    train = vitkit.compare(*two, photos, split="train", out=tmp_path / "train")
    assert train.facts["counts"]["images"] == 24
    (tmp_path / "one" / "red").mkdir(parents=True)
    (photos / "test" / "red" / "000.png").rename(tmp_path / "one" / "red" / "000.png")
    one = vitkit.compare(*two, tmp_path / "one", out=tmp_path / "single")
    assert (one.facts["counts"]["images"], one.facts["p"]) == (1, 1.0)
    assert one.facts["nll_difference"]["low"] is None
    assert "no difference can be shown" in one.facts["verdict"]
    with pytest.raises(UserError, match=r"has no split 'val'; it has train, test\."):
        vitkit.compare(*two, photos, split="val", out=tmp_path / "none")


def test_images_that_either_cannot_use_are_left_out_for_both(
    two: tuple[str, str], flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (flat / "red" / "broken.png").write_bytes(b"nothing")
    found = vitkit.compare(*two, flat, out=tmp_path / "out")
    assert found.facts["counts"]["images"] == 24
    assert [entry["name"] for entry in found.facts["skipped"]] == ["red/broken.png"]
    assert "left out for both: red/broken.png" in capsys.readouterr().err
    assert "red/broken.png" in found.page.read_text()
    with pytest.raises(UserError, match=r"red/broken.png: .* \(--strict\)"):
        vitkit.compare(*two, flat, out=tmp_path / "strict", strict=True)
    for image in flat.rglob("*.png"):
        image.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"none of the 25 images can be used by both models; the first: blue/000.png: "):
        vitkit.compare(*two, flat, out=tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_what_one_model_alone_cannot_use_is_left_out_with_its_letter(flat: Path, tmp_path: Path) -> None:
    a = make_bundle(1).save(tmp_path / "a")
    wide = make_bundle(2)
    wide.preprocess_record = Preprocess((16, 16), mean=(0.5,), std=(0.5,))
    wide.model = VisionTransformer(
        ViTConfig(
            embed_dim=8,
            depth=1,
            num_heads=1,
            mlp_dim=8,
            patch_size=(8, 8),
            image_size=(16, 16),
            num_classes=3,
            in_channels=1,
        )
    )
    wide.model.init_weights(0)
    gray = Image.open(flat / "red" / "000.png").convert("L")
    gray.save(flat / "red" / "000.png")
    found = vitkit.compare(a, wide.save(tmp_path / "gray"), flat, out=tmp_path / "out")
    assert found.facts["counts"]["images"] == 1
    assert len(found.facts["skipped"]) == 23
    assert all(entry["reason"].startswith("B: ") for entry in found.facts["skipped"])


def test_classes_are_matched_by_name_also_between_spellings_of_imagenets(tmp_path: Path) -> None:
    """One model has names, the other WordNet ids in another order: the same weights give the same answers."""
    names = class_names("imagenet1k")
    first = make_bundle(3, names)
    order = np.random.default_rng(0).permutation(1000)
    for folder, wnid in (("x", WNIDS[5]), ("y", WNIDS[700])):
        (tmp_path / "data" / wnid).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(ord(folder) + number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / wnid / f"{number}.png")
    second = make_bundle(3, tuple(WNIDS[index] for index in order))
    for part in ("weight", "bias"):
        wanted = getattr(first.model.head, part).data[torch.from_numpy(order)]
        getattr(second.model.head, part).data.copy_(wanted)
    models = [first.save(tmp_path / "first"), second.save(tmp_path / "second")]
    for name, pair in (("out", models), ("swapped", models[::-1])):
        found = vitkit.compare(*pair, tmp_path / "data", out=tmp_path / name)
        assert found.facts["counts"]["differing"] == 0
        assert found.facts["nll_difference"]["value"] == pytest.approx(0, abs=1e-6)
        assert found.facts["notes"] == []  # two spellings of the same classes


def test_models_and_data_that_cannot_be_compared(two: tuple[str, str], flat: Path, tmp_path: Path) -> None:
    fewer = make_bundle(3, ("blue", "green")).save(tmp_path / "fewer")
    with pytest.raises(
        UserError, match=r"model B \(.*fewer\): the data has classes that the model does not know: 'red'"
    ):
        vitkit.compare(two[0], fewer, flat, out=tmp_path / "1")
    many = make_bundle(3, task=MULTI).save(tmp_path / "many")
    with pytest.raises(UserError, match=r"model A \(.*many\) is multi-label: .* vit evaluate scores the others"):
        vitkit.compare(many, two[0], flat, out=tmp_path / "1")
    (tmp_path / "labels.csv").write_text("path,labels\nflat/red/000.png,red|blue\nflat/red/001.png,green\n")
    with pytest.raises(UserError, match="labels is multi-label"):
        vitkit.compare(*two, tmp_path / "labels.csv", out=tmp_path / "1")
    bare = make_bundle(3, None, 5).save(tmp_path / "bare")
    with pytest.raises(UserError, match=r"model B \(.*bare\) has 5 classes without names, the data 3"):
        vitkit.compare(two[0], bare, flat, out=tmp_path / "1")
    headless = made(tmp_path / "headless", None, 0)
    with pytest.raises(UserError, match=r"model B \(.*headless\): this model has no head"):
        vitkit.compare(two[0], headless, flat, out=tmp_path / "1")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"already exists\. Choose another --out"):
        vitkit.compare(*two, flat, out=tmp_path / "1")
    headless = made(tmp_path / "headless", None, 0)
    with pytest.raises(UserError, match=r"model B \(.*headless\): this model has no head"):
        vitkit.compare(two[0], headless, flat, out=tmp_path / "out")
    with pytest.raises(UserError, match="no such data"):
        vitkit.compare(*two, tmp_path / "nowhere", out=tmp_path / "2")


def test_models_without_names_and_of_other_sets_are_told(
    two: tuple[str, str], flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = make_bundle(3, None, 3).save(tmp_path / "bare")
    vitkit.compare(two[0], bare, flat, out=tmp_path / "out")
    assert "B's classes have no names" in capsys.readouterr().err
    more = make_bundle(3, (*NAMES, "white")).save(tmp_path / "more")
    found = vitkit.compare(two[0], more, flat, out=tmp_path / "other")
    assert any("(3 and 4 classes)" in note for note in found.facts["notes"])
    assert "(3 and 4 classes)" in found.page.read_text()


def test_damaged_weights_are_refused(two: tuple[str, str], flat: Path, tmp_path: Path) -> None:
    broken = make_bundle(1)
    broken.model.head.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        vitkit.compare(two[0], broken.save(tmp_path / "broken"), flat, out=tmp_path / "out")


def test_the_page_holds_its_pictures_and_asks_for_nothing(two: tuple[str, str], flat: Path, tmp_path: Path) -> None:
    (flat / "<b>&red").mkdir()
    (flat / "red" / "000.png").rename(flat / "red" / "<i>&.png")
    (flat / "<b>&red").rmdir()
    found = vitkit.compare(*two, flat, out=tmp_path / "out", command="vit compare <a> b")
    page = found.page.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == found.facts["counts"]["differing"]
    assert "<i>&" not in page
    assert "vit compare &lt;a&gt; b" in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for text in ("Only A is right", "Only B is right", "Both are wrong", "exact McNemar test", "Who is right"):
        assert text in page
    assert html.escape(found.facts["verdict"][1:]) in page


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium binary")
def test_a_browser_shows_the_page_on_a_phone(flat: Path, tmp_path: Path) -> None:
    long = "a_class_name_that_goes_on_and_on_without_any_place_to_break_it_at_all"
    (flat / "red").rename(flat / long)
    names = (long, "blue", "green")
    models = [make_bundle(seed, names).save(tmp_path / f"{long}{seed}") for seed in (1, 2)]
    found = vitkit.compare(*models, flat, out=tmp_path / "out")
    frames = "".join(
        f'<iframe src="compare.html" style="width:{w}px;height:900px;border:0"></iframe>' for w in (390, 1200)
    )
    (found.folder / "frames.html").write_text(
        "<!doctype html>" + frames + "<pre></pre><script>onload = () => {"
        "document.querySelector('pre').textContent = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {"
        "const page = frame.contentDocument; return {wide: page.documentElement.scrollWidth, "
        "text: page.querySelector('main').innerText, beyond: [...page.querySelectorAll('.card, h1, h2, p, dd, figure, td')]"
        ".filter(e => e.getBoundingClientRect().right > frame.clientWidth).map(e => e.outerHTML.slice(0, 200)), "
        "shown: [...page.querySelectorAll('figure img')].filter(e => e.naturalWidth > 0).length}}))}</script>",
        encoding="utf-8",
    )
    document, asked_for = browse(found.folder / "frames.html", tmp_path / "profile")
    stored = re.search(r"<pre>(.*?)</pre>", document, flags=re.DOTALL)
    assert stored is not None
    for wide, shown in zip((390, 1200), json.loads(html.unescape(stored[1])), strict=True):
        assert shown["wide"] == wide
        assert shown["beyond"] == []
        assert shown["shown"] == found.facts["counts"]["differing"] > 0
        assert "points of top-1 accuracy" in shown["text"]
    assert asked_for == set()
