"""The site of the board: its files, what they say, and how they behave in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

from vitkit.board.catalogue import DATASETS, METHODS, PAPERS, TASKS, Dataset, Method, Paper, Task
from vitkit.board.entries import Entry, published
from vitkit.board.site import MARKER, write_site
from vitkit.config import UserError
from vitkit.console import Console

NASTY = "</script><b>x</b>\"'&"
SHIPPED = [e for e in published() if not e.paper or e.paper in {p.name for p in PAPERS}]
COMMAND = "vit evaluate deit_tiny_patch16_224 cifar10 --protocol classify --out runs/a"
OURS = Entry(
    "ours", "image-classification", "cifar10", "top1", 98.10412, "%", "DeiT-Ti/16", "2026-01-31", COMMAND, low=97.81, high=98.36,
    interval="95 %", n=10_000, command=COMMAND, code="0.5.0 (0123abcd4567)", data="sha256:11aa", fingerprint="sha256:22bb",
)  # fmt: skip
PART = replace(OURS, dataset="imagenet", value=77.245508, n=167, part=True, fingerprint="sha256:33cc")

# A small board whose every answer is known.
LITTLE: dict[str, Any] = {
    "tasks": (Task("t", "Telling Apart", "One class for each image.", ("top1", "nll")),),
    "datasets": (
        Dataset("dees", "Dees", "Pictures of the letter D.", ("t",), images=1000, classes=10, source="https://example.org/dees"),
        Dataset("bees", "Bees", "No result so far.", ("t",)),
    ),
    "papers": (
        Paper("vit", "Words of Images", "ViT", "A. Author", "2020-10-22", "Patches become tokens.", "2010.11929", "ICLR 2021",
              ("https://example.org/code",), ("t",)),
        Paper("deit", "Learning from a Teacher", "DeiT", "B. Author", "2020-12-23", "A teacher helps.", "2012.12877",
              builds_on=(("vit", "less data"),)),
        Paper("iii", "Revenge", "DeiT III", "B. Author", "2022-04", "A recipe.", "2204.07118",
              builds_on=(("deit", "a recipe"), ("vit", "the model"))),
        Paper("mae", "Masked Pictures", "MAE", "C. Author", "2021-11-11", NASTY, "", builds_on=(("vit", "masking"),)),
    ),
    "methods": (Method("patches", "Patches", "Architecture", "Squares of pixels.", ("vit",), "https://example.org/patches"),),
}  # fmt: skip
ROW = Entry(
    "published",
    "t",
    "dees",
    "top1",
    88.5,
    "%",
    "L/16",
    "2020-10-22",
    "https://example.org/vit",
    paper="vit",
    table="Table 2",
)
ROWS = [
    ROW,
    replace(ROW, value=9.5, model="S/32"),
    replace(ROW, value=100.0, model="H/14", spread=0.04, pretraining="JFT-300M", extra={"exa_flops": 55.0}),
    replace(ROW, value=450.0, model="8/B", kind="community", plausible=False, reason="450 is no percentage",
            source_title="Listing", licence="CC BY-SA 4.0", attribution="PWC Archive"),
    replace(ROW, value=99.5, model="H/14", kind="community", source_title="Listing", licence="CC BY-SA 4.0",
            attribution="PWC Archive"),
    replace(ROW, value=91.25, model="Ti/16", paper="deit", date="2020-12-23"),
    replace(ROW, value=0.5, metric="nll", unit="nats", model="L/16"),
    replace(ROW, value=0.25, metric="nll", unit="nats", model=NASTY),
    replace(OURS, task="t", dataset="dees", metric="top1", model="S/16", extra={
        "protocol": "linear", "settings": {"batch_size": 64, "shots": [5, 10], "flip": False}, "versions": {"torch": "2.9"}}),
    replace(PART, task="t", dataset="dees", metric="top1", model="B/16"),
]  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of all results that vitkit ships, with two of ours."""
    return write_site(tmp_path_factory.mktemp("shipped") / "site", [*SHIPPED, OURS, PART]).parent


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the small board."""
    return write_site(tmp_path_factory.mktemp("little") / "site", ROWS, **LITTLE).parent


class Page(HTMLParser):
    """A page's ids, addresses and text; fails on an end tag that does not close the tag opened last."""

    EMPTY = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.named: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.text = " ".join(self.text.split())
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.take(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.take(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"

    def take(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        for name, value in attrs:
            assert not name.startswith("on"), "scripts stand in their own file"
            if name == "id":
                self.ids.append(str(value))
            elif name in ("href", "src", "action", "data", "srcset", "poster"):
                (self.links if tag == "a" else self.loaded).append(str(value))
            elif name in ("aria-labelledby", "aria-controls", "for"):
                self.named += str(value).split()


def pages_of(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.mark.parametrize("which", ["shipped", "little"])
def test_every_page_is_well_formed_and_every_link_inside_the_site_resolves(which: str, request: Any) -> None:
    site: Path = request.getfixturevalue(which)
    pages = pages_of(site)
    assert len(pages) >= 8
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
        assert set(page.named) <= set(page.ids), name
        assert page.source.count("<h1>") == 1
        assert all(page.source.count(f"<{mark}") == 1 for mark in ("main", "footer", "header")), name
        assert "None" not in re.sub(r"(?i)none of|aria-sort=\"none\"", "", page.text), name
        for link in page.links + page.loaded:
            address, anchor = urldefrag(unquote(link))
            if address.startswith("https://") and link in page.links:
                continue
            if address == "data:,":
                continue
            assert not re.match(r"[a-z]+:|/", address), (name, link)
            target = os.path.normpath(os.path.join(os.path.dirname(name), address)) if address else name
            assert (site / target).is_file(), (name, link)
            if anchor:
                assert anchor in pages[target].ids, (name, link)


def test_every_row_of_the_catalogue_has_its_page_and_is_linked(shipped: Path) -> None:
    pages = pages_of(shipped)
    reached = {
        os.path.normpath(os.path.join(os.path.dirname(n), urldefrag(x)[0])) for n, p in pages.items() for x in p.links
    }
    for folder, rows in (("tasks", TASKS), ("datasets", DATASETS), ("papers", PAPERS)):
        for row in rows:
            assert f"{folder}/{row.name}.html" in pages
            assert f"{folder}/{row.name}.html" in reached
    assert {f"method-{m.name}" for m in METHODS} <= set(pages["methods.html"].ids)
    assert "CC BY-SA 4.0" in pages["about.html"].text
    assert "PWC Archive" in pages["about.html"].text


def test_pages_load_nothing_but_their_own_files(shipped: Path) -> None:
    for name, page in pages_of(shipped).items():
        root = "../" * name.count("/")
        assert page.loaded == ["data:,", f"{root}assets/site.css", f"{root}assets/search.js", f"{root}assets/site.js"]
    style, script = ((shipped / "assets" / f).read_text(encoding="utf-8") for f in ("site.css", "site.js"))
    assert not re.findall(r"url\(|@import|@font-face|https?:", style)
    assert not re.findall(r"fetch|XMLHttp|import\b|https?:|localStorage|cookie|innerHTML|eval", script)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, little: Path) -> None:
    again = files_of(write_site(tmp_path / "again", ROWS, **LITTLE).parent)
    assert again == files_of(little)


def test_everything_is_escaped(little: Path) -> None:
    for name, data in files_of(little).items():
        text = data.decode()
        assert "<b>x" not in text.replace("window.vitIndex", "") or name == "assets/search.js"
        if name.endswith(".html"):
            assert text.count("<script") == 2
    search = (little / "assets/search.js").read_text(encoding="utf-8")
    assert "</" not in search
    titles = [title for title, *_ in json.loads(search.removeprefix("window.vitIndex = ").removesuffix(";\n"))]
    assert NASTY in titles
    assert NASTY in Page(little / "papers/mae.html").text


def test_a_leaderboard_shows_places_values_and_who_says_so(little: Path) -> None:
    page = Page(little / "datasets/dees.html")
    table = page.source.split("<tbody>")[1].split("</tbody>")[0]
    rows = [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in table.split("</tr>")[:-1]]
    assert [row.split()[:2] for row in rows] == [
        ["1", "H/14"], ["2", "H/14"], ["3", "S/16"], ["4", "Ti/16"], ["5", "L/16"], ["6", "S/32"], ["–", "B/16"], ["–", "8/B"],
    ]  # fmt: skip
    assert "pre-trained on JFT-300M · exa flops 55 100 % ± 0.04 published ViT 2020-10 Table 2" in rows[0]
    assert "99.5 % community" in rows[1]
    assert "S/16 linear 98.1 % 95 %: 97.81 to 98.36 ours vitkit 2026-01 how it was made" in rows[2]
    assert "77.25 %" in rows[6]
    assert "on a part: 167 images" in rows[6]
    assert "450 is no percentage 450 % implausible, as printed community" in rows[7]
    assert page.source.count('class="implausible"') == 1
    assert "Published 100 % by H/14 (Table 2)" in page.text
    assert "batch size 64 , shots 5, 10 , flip no , torch 2.9" in page.text
    for fact in (COMMAND, "0.5.0 (0123abcd4567)", "sha256:11aa", "sha256:22bb", "97.81 to 98.36"):
        assert fact in page.text


def test_implausible_values_and_parts_are_in_no_plot_and_best_nowhere(little: Path, shipped: Path) -> None:
    drawn = re.findall(
        r"<svg class=\"plot.*?</svg>", (little / "datasets/dees.html").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(drawn) == 4  # two metrics, each for a desk and for a phone
    words = [re.sub(r"<[^>]*>", " ", svg) for svg in drawn]
    assert all("450" not in text and "77.2" not in text for text in words)
    assert "6 values; the best is 100 % by H/14, 2020" in drawn[0]
    assert "450" not in Page(little / "sota.html").text
    for name, page in pages_of(shipped).items():
        for svg in re.findall(r"<svg class=\"plot.*?</svg>", page.source, re.DOTALL):
            assert ">450" not in svg, name
    assert "450 %" in Page(shipped / "datasets/vizwiz.html").text
    assert "450 %" not in Page(shipped / "sota.html").text


def test_values_without_a_date_are_in_the_table_and_in_no_plot(tmp_path: Path, little: Path) -> None:
    undated = replace(ROW, value=99.9, model="README/1", date="", as_of="2026-08-08")
    site = write_site(tmp_path / "site", [*ROWS, undated], **LITTLE).parent
    page, before = Page(site / "datasets/dees.html"), Page(little / "datasets/dees.html")
    plots = [re.findall(r"<svg class=\"plot.*?</svg>", p.source, re.DOTALL) for p in (page, before)]
    assert plots[0] == plots[1]
    assert "6 values; the best is 100 % by H/14, 2020" in plots[0][0]
    assert "README/1 99.9 % published ViT as of 2026-08 Table 2" in page.text
    said = "Results without a date of publication are not drawn."
    assert (page.text.count(said), before.text.count(said)) == (1, 0)  # there are two plots
    only = write_site(tmp_path / "only", [ROW, undated], **LITTLE).parent
    assert '<svg class="plot' not in Page(only / "datasets/dees.html").source


def test_the_plots_of_what_is_shipped_show_no_date_of_a_version(shipped: Path) -> None:
    for name, page in pages_of(shipped).items():
        dates = re.findall(r"<title>[^<]*, (20\d\d-\d\d), (?:published|community)</title>", page.source)
        assert not {"2024-05", "2025-05", "2026-08"} & set(dates), name
    assert "as of 2026-08" in Page(shipped / "datasets/imagenet.html").text


def test_a_paper_page_has_summary_code_tags_results_methods_and_the_tree(little: Path) -> None:
    page = Page(little / "papers/vit.html")
    for part in (
        "Patches become tokens.",
        "example.org/code",
        "Telling Apart",
        "ICLR 2021",
        "arXiv:2010.11929",
        "Patches",
    ):
        assert part in page.text
    assert "../methods.html#method-patches" in page.links
    tree = page.source.split('<ul class="tree">')[1].split("</nav>")[0]
    assert re.findall(r"papers/(\w+)\.html", tree) == ["vit", "deit", "iii", "mae"]
    assert re.findall(r'papers/(\w+)\.html" aria-current="page"', tree) == ["vit"]
    assert "Builds also on" in Page(little / "papers/iii.html").text
    assert "The board holds no values of this paper yet." in Page(little / "papers/mae.html").text
    assert "No result so far." in Page(little / "datasets/bees.html").text


def test_an_empty_board_is_a_site_too(tmp_path: Path) -> None:
    site = write_site(tmp_path / "site", [], tasks=(), datasets=(), metrics=(), papers=(), methods=()).parent
    assert len(pages_of(site)) == 8


def test_the_writer_says_what_it_wrote(tmp_path: Path) -> None:
    out = io.StringIO()
    write_site(tmp_path / "site", ROWS, console=Console(out, out), **LITTLE)
    assert re.fullmatch(r"wrote 15 pages with 10 results to .*site; open .*index\.html in a browser\n", out.getvalue())


def test_an_own_site_is_replaced_as_a_whole_and_an_empty_folder_filled(tmp_path: Path, little: Path) -> None:
    out = tmp_path / "deep" / "site"
    out.mkdir(parents=True)
    write_site(out, [], tasks=(), datasets=(), metrics=(), papers=(), methods=())
    write_site(out, ROWS, **LITTLE)
    assert files_of(out) == files_of(little)
    assert [path.name for path in out.parent.iterdir()] == ["site"]  # nothing is left beside it
    link = tmp_path / "link"
    link.symlink_to(out)
    write_site(link, ROWS[:1], **LITTLE)
    assert link.is_symlink()
    assert "S/32" not in Page(out / "datasets/dees.html").text


def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"a")
    with pytest.raises(
        UserError, match=r"photos already exists and is no site that vitkit wrote; .* Choose a new or empty folder"
    ):
        write_site(photos, ROWS, **LITTLE)
    with pytest.raises(UserError, match=r"a\.jpg already exists and is no site"):
        write_site(photos / "a.jpg", ROWS, **LITTLE)
    assert files_of(photos) == {"a.jpg": b"a"}
    site = write_site(tmp_path / "site", ROWS, **LITTLE).parent
    (site / "papers" / "notes.txt").write_text("mine")
    before = files_of(site)
    with pytest.raises(
        UserError, match=r"files that vitkit did not write there: papers/notes\.txt\. Replacing .* lose them"
    ):
        write_site(site, ROWS, **LITTLE)
    assert files_of(site) == before


@pytest.mark.parametrize("step", ["write", "swap"])
def test_a_site_that_cannot_be_written_leaves_the_old_one_whole(tmp_path: Path, monkeypatch: Any, step: str) -> None:
    site = write_site(tmp_path / "site", ROWS, **LITTLE).parent
    before = files_of(site)
    write, rename = Path.write_bytes, Path.rename

    def full(path: Path, data: bytes) -> int:
        if step == "write" and path.name == "submit.html":
            raise OSError(28, "No space left on device")
        return write(path, data)

    def refuse(path: Path, target: Path) -> Path:
        if step == "swap" and "partial" in path.name:
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"cannot write .*site: (No space left|Permission denied)"):
        write_site(site, ROWS[:2], **LITTLE)
    assert files_of(site) == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_entries_of_an_unknown_paper_or_dataset_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'L/16' 88\.5 is of the paper 'other', which the board does not know"):
        write_site(tmp_path / "site", [replace(ROW, paper="other")], **LITTLE)
    with pytest.raises(
        UserError, match=r"is of the dataset 'other', which the board does not know\. Known: dees, bees"
    ):
        write_site(tmp_path / "site", [replace(ROW, dataset="other")], **LITTLE)
    assert list(tmp_path.iterdir()) == []


def test_the_marker_lists_every_file(little: Path) -> None:
    listed = (little / MARKER).read_text(encoding="utf-8").splitlines()
    assert sorted([*listed, MARKER]) == sorted(files_of(little))


# In a browser.

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
in_a_browser = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium binary")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        shown = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield shown
        shown.close()


class Watched:
    """A browser page that notes what it asks for and complains of."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": DESK, **options})
        self.context.set_default_timeout(10_000)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: object, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.errors == []
            assert [url for url in self.asked if not url.startswith(("file:", "data:"))] == []


def column(page: Any, number: int, table: str = "table") -> list[str]:
    """A column's cells (from 1), first lines only."""
    cells = page.locator(table).first.locator(f"tbody tr > :nth-child({number})")
    return [text.strip().split("\n")[0].strip() for text in cells.all_inner_texts()]


@pytest.mark.parametrize("keyboard", [False, True], ids=["click", "keyboard"])
class TestSorting:
    pytestmark = in_a_browser

    def test_numbers_sort_as_numbers_both_ways_and_empty_cells_come_last(
        self, browser: Any, little: Path, keyboard: bool
    ) -> None:
        with Watched(browser) as page:
            page.goto((little / "datasets/dees.html").as_uri())
            table = page.locator("table").first

            def press(name: str) -> Any:
                button = table.get_by_role("button", name=name, exact=True)
                if keyboard:
                    button.focus()
                    page.keyboard.press("Enter" if name == "Value" else "Space")
                else:
                    button.click()
                return table.get_by_role("columnheader", name=name)

            assert column(page, 1) == ["1", "2", "3", "4", "5", "6", "–", "–"]
            head = press("Value")
            assert head.get_attribute("aria-sort") == "descending"
            values = ["450 %", "100 % ± 0.04", "99.5 %", "98.1 %", "91.25 %", "88.5 %", "77.25 %", "9.5 %"]
            assert column(page, 3) == values
            press("Value")
            assert head.get_attribute("aria-sort") == "ascending"
            assert column(page, 3) == values[::-1]
            assert "Sorted by Value, ascending." in page.locator("#said").inner_text()
            press("#")
            assert head.get_attribute("aria-sort") == "none"
            assert column(page, 1) == ["1", "2", "3", "4", "5", "6", "–", "–"]
            press("#")
            assert column(page, 1) == ["6", "5", "4", "3", "2", "1", "–", "–"]
            press("Model")
            assert column(page, 2) == ["8/B", "B/16", "H/14", "H/14", "L/16", "S/16", "S/32", "Ti/16"]
            press("Date")
            assert column(page, 6)[:4] == ["2026-01", "2026-01", "2020-12", "2020-10"]


class TestBrowser:
    pytestmark = in_a_browser

    def test_every_page_fits_a_phone_without_errors_or_requests(self, browser: Any, shipped: Path) -> None:
        with Watched(browser, viewport=PHONE, has_touch=True, is_mobile=True) as page:
            for path in sorted(shipped.rglob("*.html")):
                page.goto(path.as_uri())
                wide, beyond, small = page.evaluate(
                    """() => [document.documentElement.scrollWidth,
                    [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 361
                        && e.checkVisibility() && !e.closest('.scroll, .menu, pre, .gone, svg'))
                        .map(e => e.outerHTML.slice(0, 120)),
                    [...document.querySelectorAll('.plot text')].filter(e => e.checkVisibility()
                        && parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a < 10.5).length]"""
                )
                assert (wide, beyond, small) == (360, [], 0), path.name
            page.goto((shipped / "datasets/imagenet.html").as_uri())
            box = page.locator(".scroll").first
            assert box.evaluate("e => e.scrollWidth > e.clientWidth")  # the table scrolls inside its own box
            assert page.locator(".menu [aria-current]").evaluate(
                "e => { const r = e.getBoundingClientRect(); return r.left >= 0 && r.right <= 360; }"
            )

    def test_a_request_and_an_error_would_have_been_noticed(self, browser: Any, tmp_path: Path) -> None:
        (tmp_path / "page.html").write_text(
            '<!doctype html><img src="http://example.invalid/x.png"><script>throw 1</script>'
        )
        watched = Watched(browser)
        watched.page.goto((tmp_path / "page.html").as_uri())
        watched.context.close()
        assert watched.asked[1:] == ["http://example.invalid/x.png"]
        assert len(watched.errors) == 2

    def test_slash_typing_arrows_and_enter_find_and_open_a_page(self, browser: Any, shipped: Path) -> None:
        with Watched(browser) as page:
            page.goto((shipped / "papers/vit.html").as_uri())
            page.keyboard.press("/")
            box, results = page.get_by_role("combobox"), page.get_by_role("option")
            assert box.evaluate("e => e === document.activeElement")
            assert box.input_value() == ""
            page.keyboard.type("objectnet")
            assert results.first.inner_text().split("\n")[0] == "ObjectNet"
            assert box.get_attribute("aria-expanded") == "true"
            assert box.get_attribute("aria-activedescendant") == results.first.get_attribute("id")
            page.keyboard.press("ControlOrMeta+A")
            page.keyboard.type("cifar")
            titles = [text.split("\n")[0] for text in results.all_inner_texts()]
            assert {"CIFAR-10", "CIFAR-100"} <= set(titles)
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowUp")
            assert [o.get_attribute("aria-selected") for o in results.all()[:3]] == ["false", "true", "false"]
            page.keyboard.press("Enter")
            page.wait_for_url(f"**/{'cifar100' if titles[1] == 'CIFAR-100' else 'cifar10'}.html")
            assert page.locator("h1").inner_text() == titles[1]

    def test_search_knows_papers_models_methods_and_says_when_it_finds_nothing(
        self, browser: Any, little: Path
    ) -> None:
        with Watched(browser) as page:
            page.goto((little / "index.html").as_uri())
            box, results = page.get_by_role("combobox"), page.get_by_role("option")
            for typed, title, kind, opened in (
                ("teacher", "DeiT: Learning from a Teacher", "Paper", "papers/deit.html"),
                ("ti16", "Ti/16", "Model, DeiT", "papers/deit.html"),
                ("PATCHES", "Patches", "Method", "methods.html#method-patches"),
                ("telling apart", "Telling Apart", "Task", "tasks/t.html"),
                (NASTY, NASTY, "Model, ViT", "papers/vit.html"),
            ):
                page.goto((little / "index.html").as_uri())
                box.fill(typed)
                assert results.first.inner_text().split("\n")[:2] == [title, kind]
                results.first.click()
                page.wait_for_url(f"**/{opened}")
            box.fill("qqqq")
            assert results.count() == 0
            assert "Nothing found" in page.locator("#found").inner_text()
            page.keyboard.press("Escape")
            assert not page.locator("#found").is_visible()
            assert "<b>x" not in page.locator("#found").inner_html()

    def test_who_says_so_can_be_left_out(self, browser: Any, little: Path) -> None:
        with Watched(browser) as page:
            page.goto((little / "datasets/dees.html").as_uri())
            section = page.locator("section").first
            dots = section.locator(".plot.broad g[data-who=community]")
            assert dots.count() == 1
            page.get_by_role("button", name="community").click()
            assert page.get_by_role("button", name="community").get_attribute("aria-pressed") == "false"
            assert section.locator("tr[data-who=community]:visible").count() == 0
            assert section.locator("tr[data-who=published]:visible").count() == 4
            assert not dots.first.is_visible()
            page.get_by_role("button", name="community").press("Enter")
            assert section.locator("tr[data-who=community]:visible").count() == 2

    def test_published_community_and_ours_look_apart_and_450_is_marked(self, browser: Any, little: Path) -> None:
        with Watched(browser) as page:
            page.goto((little / "datasets/dees.html").as_uri())
            looks = {
                kind: page.locator(f"tbody .who.{kind}").first.evaluate(
                    "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor, e.querySelector('svg').innerHTML]"
                )
                for kind in ("published", "community", "ours")
            }
            for part in range(3):
                assert len({look[part] for look in looks.values()}) == 3  # by colour and by shape
            false = page.locator("tr.implausible")
            assert "implausible, as printed" in false.inner_text()
            assert page.locator(".who.bad").is_visible()

    def test_the_tree_leads_from_paper_to_paper(self, browser: Any, little: Path) -> None:
        with Watched(browser, viewport=PHONE) as page:
            page.goto((little / "papers/vit.html").as_uri())
            page.locator(".tree").get_by_role("link", name="DeiT III").click()
            page.wait_for_url("**/papers/iii.html")
            assert page.locator("h1").inner_text() == "Revenge"
            here = page.locator(".tree [aria-current]")
            assert here.inner_text().startswith("DeiT III")
            page.locator(".tree").get_by_role("link", name="MAE").click()
            page.wait_for_url("**/papers/mae.html")

    def test_the_keyboard_alone_reaches_content_and_shows_where_it_is(self, browser: Any, little: Path) -> None:
        with Watched(browser) as page:
            page.goto((little / "datasets/dees.html").as_uri())
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
            assert page.locator(".skip").evaluate("e => e.getBoundingClientRect().top >= 0")
            page.keyboard.press("Enter")
            assert page.evaluate("location.hash") == "#main"
            seen = []
            for _ in range(30):
                page.keyboard.press("Tab")
                name, style = page.evaluate(
                    "() => { const e = document.activeElement, s = getComputedStyle(e);"
                    " return [e.textContent.trim().slice(0, 20), s.outlineStyle + ' ' + parseFloat(s.outlineWidth)]; }"
                )
                seen.append(name)
                assert style in ("solid 3", "none 0") if name == "" else style == "solid 3"
            assert {"#", "Model", "Value", "Who"} <= set(seen)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_can_be_read_in_either_light(self, browser: Any, little: Path, shipped: Path, scheme: str) -> None:
        with Watched(browser, color_scheme=scheme) as page:
            grounds = set()
            for path in (
                little / "datasets/dees.html",
                little / "submit.html",
                little / "index.html",
                shipped / "papers/vit.html",
            ):
                page.goto(path.as_uri())
                if path.name == "index.html":
                    page.get_by_role("combobox").fill("vit")
                pale, count, ground = page.evaluate(CONTRAST)
                assert pale == [], path
                assert count > 20
                grounds.add(tuple(ground))
            (ground,) = grounds
            assert max(ground) < 40 if scheme == "dark" else min(ground) > 220

    def test_without_javascript_tables_and_links_are_whole(self, browser: Any, little: Path) -> None:
        with Watched(browser, java_script_enabled=False) as page:
            page.goto((little / "index.html").as_uri())
            assert not page.get_by_role("search").is_visible()
            page.get_by_role("link", name="State of the art", exact=True).first.click()
            page.get_by_role("link", name="Dees").first.click()
            page.wait_for_url("**/datasets/dees.html**")
            assert column(page, 1) == ["1", "2", "3", "4", "5", "6", "–", "–"]
            assert page.locator("button.sort:enabled").count() == 0  # nothing that would do nothing
            assert not page.locator(".chips").first.is_visible()
            assert page.locator(".plot.broad").first.is_visible()


# Text whose contrast with what lies behind it is below 4.5 (WCAG 2.1, 1.4.3), how many texts there are, the page's own ground.
CONTRAST = """() => {
  const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true});
  const rgba = text => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = text; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const behind = e => { if (!e) return [255, 255, 255];
    const c = rgba(getComputedStyle(e).backgroundColor); return c[3] === 1 ? c.slice(0, 3) : over(c, behind(e.parentElement)); };
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const pale = []; let count = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest('title, .gone, .skip')) continue;
    const style = getComputedStyle(e), ground = behind(e), ink = over(rgba(e.closest('svg') ? style.fill : style.color), ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    count++;
    if (ratio < 4.5) pale.push([walker.currentNode.data.trim().slice(0, 30), e.className.baseVal ?? e.className, ratio.toFixed(2)]);
  }
  return [pale, count, behind(document.body).map(Math.round)];
}"""
