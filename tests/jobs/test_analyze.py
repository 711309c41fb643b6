"""`vit analyze`: the page, the data and the pictures of small models; what is left out and what is refused."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitkit
from conftest import write_images
from shared import shared_data
from small_models import made
from test_report import CHROMIUM, browse
from vitkit.analysis.draw import Drawing
from vitkit.analysis.filters import filter_components
from vitkit.analysis.positions import position_similarity
from vitkit.analysis.survey import Survey
from vitkit.bundle import Bundle
from vitkit.cli.main import main
from vitkit.config import UserError, write_file
from vitkit.data.pixels import Preprocess, open_image
from vitkit.models.vit import VisionTransformer, ViTConfig

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib")

STEMS = ["filters", "positions", "attention_distance", "attention_entropy", "layers", "tokens"]
PARTS = [
    "filters",
    "position similarity",
    "attention distance",
    "attention entropy",
    "similarity of layers",
    "token norms",
]


def bundle_of(channels: int = 3, prepared: bool = True, **changes: Any) -> Bundle:
    base = {"embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_dim": 48, "patch_size": (4, 4), "image_size": (16, 16),
            "num_classes": 3, "in_channels": channels}  # fmt: skip
    config = ViTConfig(**{**base, **changes})
    model = VisionTransformer(config)
    model.init_weights(0)
    record = Preprocess(config.image_size, mean=(0.5,) * channels, std=(0.5,) * channels) if prepared else None
    return Bundle(model.eval(), record, None)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are put together but not rendered, which takes longest."""

    def save(_drawing: Drawing, stem: Path) -> tuple[Path, Path]:
        paths = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
        for path in paths:
            write_file(path, b"")
        return paths

    monkeypatch.setattr(Drawing, "save", save)


def test_the_page_the_data_and_the_pictures(tmp_path: Path, flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = made(tmp_path / "run" / "model", ("a", "b"))
    out = tmp_path / "out"
    assert main(["analyze", str(model), "-o", str(out), "--images", str(flat), "--max-images", "12", "--json"]) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    facts = json.loads((out / "analysis.json").read_text())
    assert (facts["format"], facts["format_version"]) == ("vitkit-analyze", 1)
    assert facts["model"]["name"] == "run"  # a run's bundle is called as the run
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["index.html", "analysis.json", *(f"{stem}{suffix}" for stem in STEMS for suffix in (".svg", ".png"))]
    )
    assert facts["figures"] == [f"{stem}{suffix}" for stem in STEMS for suffix in (".svg", ".png")]
    assert [finding["part"] for finding in facts["findings"]] == PARTS
    assert facts["left_out"] == []
    assert facts["images"] == {"data": "flat", "found": 24, "chosen": 12, "used": 12, "skipped": []}
    for key, value in printed.items():
        if key not in ("folder", "page"):
            wanted = dict(facts[key]) if isinstance(facts[key], dict) else facts[key]
            if key in ("filters", "positions"):
                wanted.pop({"filters": "components", "positions": "similarity"}[key])
            assert value == wanted, key
    for finding in facts["findings"]:
        assert f"{finding['part']}: {finding['text']}" in captured.err

    # Its numbers are those of the functions, over every second image.
    bundle = vitkit.load(model)
    filters, similarity = filter_components(bundle.model), position_similarity(bundle.model)
    assert np.array(facts["filters"]["components"]) == pytest.approx(filters.components, abs=1e-5)
    assert np.array(facts["positions"]["similarity"]) == pytest.approx(similarity.values, abs=1e-5)
    images = [bundle.preprocess(open_image(path)) for path in sorted(flat.rglob("*.png"))[::2]]
    survey = Survey(bundle.model)
    survey.add(torch.stack(images))
    found = survey.result()
    assert np.array(facts["attention_distance"]["pixels"]) == pytest.approx(found.distance, rel=1e-3)
    assert np.array(facts["attention_entropy"]["nats"]) == pytest.approx(found.entropy, rel=1e-3)
    assert np.array(facts["layers"]["cka"]) == pytest.approx(found.cka, abs=1e-3)
    assert facts["tokens"]["median"] == pytest.approx(found.norms.median.tolist(), rel=1e-3)

    page = (out / "index.html").read_text()
    shown = html.unescape(page)
    for finding in facts["findings"]:
        assert f'alt="{finding["part"].capitalize()}. ' in shown
        assert finding["text"] in shown
    assert page.count("data:image/svg+xml;base64,") == len(STEMS)
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', page)


@pytest.mark.usefixtures("unrendered")
def test_without_images_what_needs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = vitkit.analyze(bundle_of(prepared=False), out=tmp_path / "out")
    assert [finding["part"] for finding in found.facts["findings"]] == PARTS[:2]
    assert [each["part"] for each in found.facts["left_out"]] == PARTS[2:]
    assert all("name some with --images" in each["reason"] for each in found.facts["left_out"])
    assert found.facts["images"] is None
    assert "left out: token norms: no images were given" in capsys.readouterr().err
    page = html.unescape(found.page.read_text())
    assert "Left out" in page
    assert "none were given" in page
    json.loads((found.folder / "analysis.json").read_text())


CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "hybrid": ({"stem": (1,), "patch_size": (1, 1), "image_size": (32, 48)}, {"filters": "hybrid"}),
    "no positions": ({"position": "none"}, {"position similarity": "no position embeddings"}),
    "relative": ({"position": "relative"}, {"position similarity": "relative"}),
    "tables": ({"position_at": "layers"}, {}),
    "sincos": ({"position": "sincos2d"}, {}),
    "2-D, wide, registers": ({"position": "learned2d", "image_size": (16, 32), "registers": 2}, {}),
    "map, no head": ({"pool": "map", "cls_token": False, "num_classes": 0}, {}),
    "every token": ({"pool": "none"}, {}),
    "distilled": ({"registers": 1, "distilled": True}, {}),
    "one layer, one patch": ({"depth": 1, "image_size": (4, 4)}, {}),
    "one head, patches of a pixel": ({"num_heads": 1, "patch_size": (1, 1), "image_size": (6, 8)}, {}),
    "a row of patches, none square": ({"patch_size": (2, 8), "image_size": (2, 64)}, {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("unrendered")
def test_every_kind_of_model(case: str, flat: Path, tmp_path: Path) -> None:
    changes, left_out = CASES[case]
    found = vitkit.analyze(bundle_of(**changes), out=tmp_path / "out", images=flat, max_images=8)
    assert {each["part"] for each in found.facts["left_out"]} == set(left_out)
    for each in found.facts["left_out"]:
        assert left_out[each["part"]] in each["reason"]
    assert len(found.facts["findings"]) == 6 - len(left_out)
    facts = json.loads((found.folder / "analysis.json").read_text())
    assert (case == "tables") == ("Of the 3 tables" in found.page.read_text())
    assert np.isfinite(facts["attention_distance"]["pixels"]).all()


def test_models_of_extreme_weights_are_shown_without_warnings(flat: Path, tmp_path: Path) -> None:
    """Weights of zeros have no logarithms, and squares of tokens of 1e30 no float32."""
    zeros, large = bundle_of(depth=1), bundle_of(depth=1)
    with torch.no_grad():
        for parameter in zeros.model.parameters():
            parameter.zero_()
        large.model.blocks[0].mlp.fc2.weight.mul_(1e30)
    vitkit.analyze(zeros, out=tmp_path / "zeros", images=flat, max_images=5)
    found = vitkit.analyze(large, out=tmp_path / "large", images=flat, max_images=5)
    json.dumps(found.facts, allow_nan=False)
    assert found.facts["tokens"]["median"][-1] > 1e25
    assert np.isfinite(np.array(found.facts["layers"]["cka"], dtype=float)).all()


@pytest.mark.usefixtures("unrendered")
def test_damaged_weights_are_left_out_and_said(tmp_path: Path) -> None:
    bundle = bundle_of()
    with torch.no_grad():
        bundle.model.patch_embed.weight[0, 0, 0, 0] = float("nan")
    found = vitkit.analyze(bundle, out=tmp_path / "a")
    assert "filters of this patch embedding are not all finite" in found.facts["left_out"][0]["reason"]
    bundle = bundle_of()
    with torch.no_grad():
        for name, parameter in bundle.model.named_parameters():
            if "pos_" in name:
                parameter[:] = float("inf")
    found = vitkit.analyze(bundle, out=tmp_path / "b")
    assert "position embeddings of this model are not all finite" in found.facts["left_out"][0]["reason"]


@pytest.mark.usefixtures("unrendered")
def test_few_images_have_no_similarity_of_layers(tmp_path: Path, flat: Path) -> None:
    found = vitkit.analyze(bundle_of(), out=tmp_path / "out", images=flat, max_images=3)
    assert found.facts["left_out"] == [{"part": "similarity of layers", "reason": "it needs at least 4 images, got 3."}]
    assert "layers" not in found.facts


@pytest.mark.usefixtures("unrendered")
def test_images_of_many_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(5):
        np.save(tmp_path / f"{number}.npy", rng.integers(0, 256, (20, 20, 6), dtype=np.uint8))
    found = vitkit.analyze(bundle_of(6), out=tmp_path / "out", images=sorted(tmp_path.glob("*.npy")))
    assert found.facts["images"]["used"] == 5
    assert "6 channels, which are no colours" in found.page.read_text()
    assert np.array(found.facts["filters"]["components"]).shape[3] == 6


@pytest.mark.usefixtures("unrendered")
def test_images_that_cannot_be_used_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "i", (9, 99, 200), 6, 0)
    (tmp_path / "i" / "002.png").write_bytes(b"")
    (tmp_path / "i" / "004.png").write_bytes((tmp_path / "i" / "004.png").read_bytes()[:60])
    found = vitkit.analyze(bundle_of(), out=tmp_path / "out", images=tmp_path / "i")
    assert [each["name"] for each in found.facts["images"]["skipped"]] == ["002.png", "004.png"]
    assert found.facts["images"]["used"] == 4
    assert "skipped 002.png: " in capsys.readouterr().err
    assert "002.png" in found.page.read_text()
    with pytest.raises(UserError, match=r"002.png: .*\(--strict\)"):
        vitkit.analyze(bundle_of(), out=tmp_path / "strict", images=tmp_path / "i", strict=True)
    for path in (tmp_path / "i").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 6 images can be used; the first: 000\.png: "):
        vitkit.analyze(bundle_of(), out=tmp_path / "none", images=tmp_path / "i")
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("unrendered")
def test_what_is_refused(tmp_path: Path, flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of()
    with pytest.raises(UserError, match="--max-images must be at least 1, got 0"):
        vitkit.analyze(bundle, out=tmp_path / "out", images=flat, max_images=0)
    with pytest.raises(UserError, match="--workers must be at least 1"):
        vitkit.analyze(bundle, out=tmp_path / "out", images=flat, workers=0)
    with pytest.raises(UserError, match=r"already exists and holds something else. Choose another -o"):
        vitkit.analyze(bundle, out=flat)
    for place in (flat / "a file", Path("/proc")):
        if place.parent == flat:
            place.write_bytes(b"")
        with pytest.raises(UserError, match=r"cannot write to .*below: .*\. Choose another -o"):
            vitkit.analyze(bundle, out=place / "below", images=tmp_path / "nothing")
    with pytest.raises(UserError, match="no such data"):
        vitkit.analyze(bundle, out=tmp_path / "out", images=tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing says how images were prepared"):
        vitkit.analyze(bundle_of(prepared=False), out=tmp_path / "out", images=flat)
    with pytest.raises(UserError, match="nothing to show of this model without images"):
        vitkit.analyze(bundle_of(stem=(), patch_size=(2, 2), position="none"), out=tmp_path / "out")
    damaged = bundle_of()
    with torch.no_grad():
        damaged.model.blocks[0].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite after 1 of its 3 blocks"):
        vitkit.analyze(damaged, out=tmp_path / "out", images=flat)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="matplotlib, which is not installed"):
        vitkit.analyze(bundle, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_runs_write_equal_files(tmp_path: Path, flat: Path) -> None:
    for run in ("a", "b"):
        vitkit.analyze(bundle_of(), out=tmp_path / run, images=flat, command="vit analyze")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.usefixtures("unrendered")
def test_the_default_folder_is_called_after_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "my model", None, outputs=0)
    for name in ("analyze-my-model", "analyze-my-model-2"):
        assert main(["analyze", "my model"]) == 0
        assert (tmp_path / "runs" / name / "index.html").is_file()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium binary")
def test_a_browser_shows_it_on_a_phone_and_asks_for_nothing(tmp_path: Path, flat: Path) -> None:
    vitkit.analyze(bundle_of(), out=tmp_path / "out", images=flat)
    frames = '<iframe src="out/index.html" style="width:360px;height:900px;border:0"></iframe>'
    (tmp_path / "frames.html").write_text(
        "<!doctype html>" + frames + "<pre></pre><script>onload = () => {"
        "const page = document.querySelector('iframe').contentDocument;"
        "document.querySelector('pre').textContent = JSON.stringify({wide: page.documentElement.scrollWidth, "
        "broken: [...page.images].filter(i => !i.naturalWidth).length, count: page.images.length})}</script>"
    )
    dom, asked = browse(tmp_path / "frames.html", tmp_path / "profile")
    found = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", dom)[1]))
    assert found == {"wide": 360, "broken": 0, "count": 6}
    assert asked == set()


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
def test_deit_tiny_has_the_patterns_of_the_paper_but_rough_filters(tmp_path: Path) -> None:
    model = shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors")
    found = vitkit.analyze(model, out=tmp_path / "out", images=shared_data("imagenet_sample"), max_images=32)
    holds = {finding["part"]: finding["holds"] for finding in found.facts["findings"]}
    assert holds["position similarity"] is holds["attention distance"] is True
    assert holds["filters"] is False  # chequerboards and stripes of single pixels are among the first
    assert found.facts["tokens"]["outliers"][-1] < 0.001  # arXiv 2309.16588 finds none in small models
