"""The report: its JSON, its charts, and the page, also in a real browser."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from vitkit.charts import confusion_chart, interval_chart, line_chart, reliability_chart
from vitkit.config import UserError, from_dict, read_json
from vitkit.report import Row, write_report

SELECTION = "selection, optimistic"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEAAAAALAAAAAABAAEAAAICTAEAOw=="
PICTURES = {"test/a.png": PIXEL}
LONG = "a_very_long_class_name_that_goes_on_and_on_without_any_place_to_break_it_at_all"


def make_facts(classes: list[str], *, test: bool = True, trained: bool = True) -> dict[str, Any]:
    """What a run of these classes reports: class i has 10 images, 1 of them taken for the next class."""
    k = len(classes)
    confusion = [[9 * (i == j) + (j == (i + 1) % k) for j in range(k)] for i in range(k)]
    split = "test" if test else "val"
    scored = [("val", SELECTION), ("test", "")] if test else [("val", SELECTION)]
    figure = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 10 * k}
    steps = [20, 40, 60] if trained else []
    return {
        "format": "vitkit-report",
        "format_version": 1,
        "title": f"photos: {k} classes",
        "subtitle": "fine-tuned model from random weights, seed 0",
        "headline": {"split": split, "metric": "top1", **figure, "label": "" if test else SELECTION},
        "release": {"released": "fine-tuned", "reason": "Released: the fine-tuned model."},
        "comparison": [
            {"model": "linear probe", "split": "val", **figure, "label": SELECTION},
            {"model": "fine-tuned", "split": "val", **figure, "label": SELECTION},
            *([{"model": "fine-tuned (released)", "split": "test", **figure, "label": ""}] if test else []),
        ],
        "rows": [
            Row("classify", f"photos/{name}", metric, 0.9, low, high, 10 * k, "model", label=label).to_dict()
            for name, label in scored
            for metric, low, high in (("top1", 0.8, 0.95), ("nll", None, None))
        ],
        "classes": classes,
        "per_class": [{"name": name, "n": 10, "recall": 0.9, "precision": 0.9} for name in classes],
        "confusion": confusion,
        "curves": {
            "loss": [(step, 2.0 / step + 0.1 * (step % 3)) for step in range(1, 61)] if trained else [],
            "evaluations": [
                {"step": s, "top1": s / 80, "balanced_accuracy": 0.5, "macro_f1": 0.5, "nll": 1.0} for s in steps
            ],
        },
        "probe": {
            "images": 8 * k, "penalty": 0.01, "cv_accuracy": 0.8, "val_accuracy": 0.8, "mirrored_val_accuracy": 0.8,
        },
        "finetune": {"steps": 80, "steps_done": 60, "best_step": 60, "stopped_early": True, "summary": "all layers"},
        "calibration": {
            "temperature": 1.25,
            "label": "" if test else SELECTION,
            "before": {"ece": 0.2, "nll": 0.9, "bins": [{"n": 10, "confidence": 0.7, "accuracy": 0.9}]},
            "after": {"ece": 0.05, "nll": 0.5, "bins": [{"n": 10, "confidence": 0.88, "accuracy": 0.9}]},
        },
        "unknown": {"threshold": 12.5, "false_alarms": 0.05, "held_out": 40, "split": split, "flagged": 3, "n": 10 * k},
        "gallery": {
            "errors": [{"name": "test/a.png", "label": classes[0], "prediction": classes[1], "probability": 0.97}],
            "unsure": [{"name": "test/b.png", "label": classes[0], "prediction": classes[0], "probability": 0.4}],
        },
        "balance": {"weights": None, "reason": "not needed"},

        "data": {
            "name": "photos",
            "summary": f"{20 * k} images of {k} classes",
            "counts": {"train": 8 * k, "val": 2 * k, **({"test": 10 * k} if test else {})},
            "per_class": {"train": [8] * k, "val": [2] * k, "test": [10 * test] * k},
            "split_rule": "held out for validation",
            "fit": "squash",
            "fit_reason": "nothing is lost",
            "sizes": "median 16x16",
            "fingerprint": "0123456789abcdef" * 4,
            "fingerprints": {"train": "0123456789abcdef" * 4},
            "notes": ["3 hidden files were skipped"],
            "skipped": [(f"train/{'x' * 120}.jpg", "truncated file")],
        },
        "model": {"source": "random weights", "licence": "the user's own", "summary": "0.14 M parameters"},
        "recipe": {"epochs": 3.0, "lr": 5e-4, "flip": True, "decay": "cosine", "train_size": (24, 32)},
        "plan": {},
        "arguments": {"data": "photos", "select_by": "auto"},
        "next_steps": [f"The most frequent confusion is {classes[0]} taken for {classes[1]}."],
        "command": "vit finetune photos --out runs/photos",
        "versions": {"python": "3.12.0", "vitkit": "0.1.0"},
        "seconds": 64.4,
    }  # fmt: skip


def page_of(facts: dict[str, Any], folder: Path) -> str:
    """The text of the page that these facts become."""
    written, _ = write_report(folder, facts, PICTURES)
    return written.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees, without tags and in one line."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_maps_of_errors_are_linked_whatever_their_names(tmp_path: Path) -> None:
    facts = make_facts(["cat", "dog"])
    error = facts["gallery"]["errors"][0]
    error["map"] = "explain/a#1 50%25 & ü\udcff.png"
    written, _ = write_report(tmp_path, facts, PICTURES, {error["name"]: "data:image/jpeg;base64,"})
    (link,) = re.findall(r'<a class="map" href="([^"]+)"', written.read_text(encoding="utf-8"))
    assert unquote(html.unescape(link), errors="surrogateescape") == error["map"]
    assert not set(link) & set("# &\udcff")


class Nesting(HTMLParser):
    """Fails on an end tag that does not close the tag opened last."""

    EMPTY = frozenset({"meta", "link", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def assert_well_formed(page: str) -> None:
    parser = Nesting()
    parser.feed(page)
    parser.close()
    assert not parser.open


def test_a_row_survives_json() -> None:
    row = Row("classify", "photos/val", "top1", 0.1 + 0.2, 0.25, 0.35, 12, "model", "measured", SELECTION)
    assert from_dict(Row, json.loads(json.dumps(row.to_dict())), "row") == row


def test_numbers_survive_report_json_to_the_last_digit(tmp_path: Path) -> None:
    facts = make_facts(["cat", "dog"])
    facts["headline"]["value"] = 0.1 + 0.2
    _, path = write_report(tmp_path, facts)
    written = read_json(path)
    assert written["headline"] == facts["headline"]
    assert list(written) == list(facts)


def test_a_number_that_does_not_exist_becomes_null_and_a_dash(tmp_path: Path) -> None:
    facts = make_facts(["cat", "dog"])
    facts["per_class"][0].update(recall=math.nan, precision=math.inf)
    page = page_of(facts, tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["per_class"][0] == {
        "name": "cat", "n": 10, "recall": None, "precision": None,
    }  # fmt: skip
    assert "cat 8 10 – –" in text_of(page)
    assert "nan" not in text_of(page)


def test_a_report_that_cannot_be_written_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html"):
        write_report(tmp_path, make_facts(["cat", "dog"]))


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "no-curves"])
@pytest.mark.parametrize("test", [True, False], ids=["test", "no-test"])
@pytest.mark.parametrize("count", [2, 17, 120])
def test_the_page_renders(tmp_path: Path, count: int, test: bool, trained: bool) -> None:
    page = page_of(make_facts([f"class {i}" for i in range(count)], test=test, trained=trained), tmp_path)
    assert_well_formed(page)
    seen = text_of(page)
    assert f"Top-1 accuracy on the {'test' if test else 'val'} split" in seen
    assert "90.0 % 95 % interval 80.0 % to 95.0 %" in seen
    assert ("No points: nothing was measured." in seen) is not trained
    assert all(f"class {i} 8 10 90.0 %" in seen for i in range(count))


def test_figures_on_data_that_chose_something_say_so(tmp_path: Path) -> None:
    classes = ["cat", "dog"]
    with_test = text_of(page_of(make_facts(classes), tmp_path))
    assert "Top-1 accuracy on the test split 90.0 %" in with_test
    assert f"Validation top-1 {SELECTION}" in with_test
    assert f"linear probe val, 20 images {SELECTION}" in with_test
    assert f"photos/val 20 images {SELECTION}" in with_test
    assert "photos/test 20 images top-1 accuracy" in with_test
    without = text_of(page_of(make_facts(classes, test=False), tmp_path))
    assert f"Top-1 accuracy on the val split {SELECTION} 90.0 %" in without
    assert f"Confusion matrix, val split {SELECTION}" in without
    assert f"Classes, val split, weakest first {SELECTION}" in without


def test_names_with_html_are_escaped_everywhere(tmp_path: Path) -> None:
    nasty = "<b>x</b>"
    facts = make_facts([nasty, '"><script>alert(1)</script>'])
    facts.update(title=nasty, subtitle=nasty, command=nasty, next_steps=[nasty])
    facts["data"].update(notes=[nasty], skipped=[(nasty, nasty)])
    page = page_of(facts, tmp_path)
    assert "<b>x" not in page
    assert "<script" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert_well_formed(page)


def test_a_multi_label_page_shows_classes_with_thresholds_and_no_confusion_matrix(tmp_path: Path) -> None:
    nasty = "<b>x</b>"
    facts = make_facts(["cat", "dog", nasty])
    figures = {"average_precision": 0.8, "auroc": 0.9, "threshold": 0.375, "precision": 0.7, "recall": 0.6, "f1": 0.65}
    facts["per_class"] = [{"name": name, "n": 10, **figures} for name in facts["classes"]]
    facts["per_class"][0].update(average_precision=None, n=0)
    facts["per_class"][2].update(average_precision=0.123)
    del facts["confusion"]
    misses = [{"missed": nasty, "predicted": "dog", "count": 3, "of": 10}]
    facts.update(task="multi-label", misses=misses, few_positives=10)
    facts["headline"]["metric"] = "map"
    facts["probe"] = {"images": 24, "penalty": 0.01, "cv_map": 0.8, "val_map": 0.8, "mirrored_val_map": 0.8}
    facts["curves"]["evaluations"] = [{"step": 20, "map": 0.5, "nll": 1.0}]
    page = page_of(facts, tmp_path)
    assert_well_formed(page)
    seen = text_of(page)
    assert "Mean average precision (mAP) on the test split 90.0 %" in seen
    assert "dog 8 10 80.0 % 90.0 % 0.375 70.0 % 60.0 % 65.0 %" in seen
    assert "cat 8 0 – " in seen
    assert seen.index(f"{nasty} 8 10") < seen.index("dog 8 10") < seen.index("cat 8 0")  # weakest first, unknown last
    assert f"{nasty} dog 3 of 10" in seen
    assert "mAP 80.0 % there" in seen
    for absent in ("Confusion matrix", "Top-1", "top-1 accuracy per step", "Wilson"):
        assert absent not in seen


def test_the_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    page = page_of(make_facts(["cat", "dog"]), tmp_path).replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|\bsrc\s*=\s*\"?(?!data:|\")|@import|<script|<iframe|<object", page)
    assert re.findall(r"href\s*=\s*\S+", page) == ['href="data:,">']
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {"#empty"}
    assert "default-src 'none'" in page  # what is not foreseen, a browser refuses


@pytest.mark.parametrize(
    "ys",
    [[2.83, 2.62], [0.0, 0.0], [100.0, 100.0], [-3.0, 5.0], [-2.0, -2.0], [1e-7, 3e-7], [1e5, 2.5e6], [0.29, 0.3]],
)
def test_ticks_cover_the_data(ys: list[float]) -> None:
    chart = line_chart(list(enumerate(ys, start=1)))
    assert chart is not None
    ticks = [float(label) for _, label in chart["y"]]
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 9
    assert ticks[0] <= min(ys)
    assert ticks[-1] >= max(ys)
    assert chart["y"][0][0] <= chart["bottom"]
    assert all(0 < y <= chart["bottom"] and chart["left"] <= x <= chart["right"] for x, y in chart["marks"])


@pytest.mark.parametrize("last", [1, 2, 3, 12, 97, 1234, 250_000])
def test_ticks_of_steps_are_whole_steps_within_the_run(last: int) -> None:
    chart = line_chart([(1, 2.0), (last, 1.0)])
    assert chart is not None
    ticks = [int(label.replace(",", "")) for _, label in chart["x"]]
    assert 1 <= len(ticks) <= 8
    assert all(1 <= tick <= last for tick in ticks)


def test_no_points_one_point_and_constant_points_are_charts_too() -> None:
    assert line_chart([]) is None
    assert line_chart([(1, None)]) is None
    single = line_chart([(7, 0.5)])
    assert single is not None
    assert single["marks"] == [((single["left"] + single["right"]) / 2, 12.0)]
    assert [label for _, label in single["x"]] == ["7"]
    constant = line_chart([(1, 100.0), (2, 100.0)])
    assert constant is not None
    assert constant["y"][-1][1] == "100"  # an accuracy has no tick above


def test_a_long_curve_is_smoothed_and_thinned_and_keeps_its_spike() -> None:
    points = [(step, 1.0 + (step == 4321)) for step in range(1, 10_001)]
    chart = line_chart(points, kept=4321)
    assert chart is not None
    assert chart["path"].count("L") <= 400
    assert chart["raw"].count("L") <= 400
    spike = f"{chart['kept'][0]},{chart['kept'][1]}"
    assert spike in chart["raw"]
    assert spike not in chart["path"]


def test_a_reliability_chart_puts_good_calibration_on_the_diagonal() -> None:
    chart = reliability_chart(
        [{"n": 4, "confidence": 1.0, "accuracy": 0.0}], [{"n": 16, "confidence": 0.5, "accuracy": 0.5}]
    )
    (good,), (bad,) = chart["after"], chart["before"]
    assert good["x"] == (chart["left"] + chart["right"]) / 2
    assert good["y"] == (chart["top"] + chart["bottom"]) / 2
    assert (bad["x"], bad["y"]) == (chart["right"], chart["bottom"])
    assert good["r"] > bad["r"]
    assert reliability_chart([], [])["after"] == []


def test_pictures_stand_beside_their_prediction_and_stay_out_of_the_json(tmp_path: Path) -> None:
    page = page_of(make_facts(["cat", "dog"]), tmp_path)
    assert page.count(PIXEL) == 1  # the other image has none, which is said
    assert "no picture" in page
    assert "dog 97.0 % labelled cat" in text_of(page)
    assert PIXEL not in (tmp_path / "report.json").read_text()


def test_intervals_share_an_axis_that_covers_them() -> None:
    chart = interval_chart([{"value": 1.0, "low": 0.76, "high": 1.0}, {"value": 0.8, "low": 0.7, "high": 0.9}])
    assert chart["ticks"][0] == (0.0, "70%")
    assert chart["ticks"][-1] == (100.0, "100%")
    assert [(r["from"], r["at"], r["long"]) for r in chart["rows"]] == [(20.0, 100.0, 80.0), (0.0, 33.33, 66.67)]


def test_the_confusion_matrix_holds_every_count_and_orders_the_confusions() -> None:
    chart = confusion_chart(["a", "b", "c"], [[8, 2, 0], [3, 1, 0], [0, 0, 0]])
    assert {(c["true"], c["guess"]): c["count"] for c in chart["cells"]} == {(0, 0): 8, (0, 1): 2, (1, 0): 3, (1, 1): 1}
    assert [(c["true"], c["guess"], c["of"]) for c in chart["confusions"]] == [(1, 0, 4), (0, 1, 10)]
    assert [name for _, name in chart["names"]] == ["a", "b", "c"]


def test_long_class_names_keep_both_ends_and_never_collide() -> None:
    many = [f"n{i:08d}_{LONG}_{i}" for i in range(120)]
    chart = confusion_chart(many, [[int(i == j) for j in range(120)] for i in range(120)])
    labels = dict(chart["names"])
    assert labels[0] == "n00000000…at_all_0"
    assert all(len(label) == 18 and label.endswith(f"_{i}") for i, label in labels.items())
    rows = [i * chart["cell"] for i in labels]
    assert min(b - a for a, b in pairwise(rows)) >= 11  # the height of a letter
    wide = confusion_chart(["犬" * 30, "猫"], [[1, 0], [0, 1]])
    assert wide["before"] > 18 * 11


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page: Path, profile: Path) -> tuple[str, set[str]]:
    """The document after its scripts ran, and every address that a page (not the browser itself) asked the network for."""
    log = profile.with_suffix(".netlog")
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1300,1000",
        "--disable-default-apps", "--disable-extensions", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--allow-file-access-from-files",
        f"--user-data-dir={profile}", f"--log-net-log={log}", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run([str(CHROMIUM), *options, page.as_uri()], capture_output=True, timeout=120, check=True)
    events = [event.get("params", {}) for event in json.loads(log.read_text(encoding="utf-8"))["events"]]
    asked = {p["url"] for p in events if "url" in p and p.get("initiator", "not an origin") != "not an origin"}
    return done.stdout.decode(), {url for url in asked if not url.startswith(("file:", "data:"))}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium binary")
def test_a_browser_shows_the_page_on_a_phone_and_asks_for_nothing(tmp_path: Path) -> None:
    classes = [f"{LONG}_{i}" for i in range(20)]
    facts = make_facts(classes, test=False)
    facts["title"] = f"{LONG}: 20 classes"
    write_report(tmp_path, facts, PICTURES)
    frames = "".join(
        f'<iframe src="report.html" style="width:{w}px;height:900px;border:0"></iframe>' for w in (390, 1200)
    )
    (tmp_path / "frames.html").write_text(
        "<!doctype html>" + frames + "<pre></pre><script>onload = () => {"
        "document.querySelector('pre').textContent = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {"
        "const page = frame.contentDocument; return {wide: page.documentElement.scrollWidth, "
        "text: page.querySelector('main').innerText, beyond: [...page.querySelectorAll('.card, h1, h2, p, li, dd, pre, .tag')]"
        ".filter(e => e.getBoundingClientRect().right > frame.clientWidth).map(e => e.outerHTML.slice(0, 200)), "
        "charts: [...page.querySelectorAll('svg')].map(e => e.getBoundingClientRect().height)}}))}</script>",
        encoding="utf-8",
    )
    document, asked = browse(tmp_path / "frames.html", tmp_path / "profile")
    found = re.search(r"<pre>(.*?)</pre>", document, flags=re.DOTALL)
    assert found is not None
    phone, desktop = json.loads(html.unescape(found[1]))
    assert phone["wide"] == 390
    assert desktop["wide"] == 1200
    for shown in (phone, desktop):
        assert shown["beyond"] == []
        assert len(shown["charts"]) == 4
        assert min(shown["charts"]) > 100
        assert "90.0 %" in shown["text"]
        assert SELECTION in shown["text"]
        assert classes[-1] in shown["text"]
    assert asked == set()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium binary")
def test_a_request_would_have_been_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('<!doctype html><img src="http://example.invalid/pixel.png">', encoding="utf-8")
    assert browse(tmp_path / "page.html", tmp_path / "profile")[1] == {"http://example.invalid/pixel.png"}
