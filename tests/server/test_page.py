"""The page of the server in a real browser, against the real server with tiny models."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from small_models import made
from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.unknown import Unknown

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
CLASSES = ("cat", "dog", "=newt", "<b>owl</b>", "asp, or viper", "elk")
STATIC = Path(__file__).parents[2] / "src/vitkit/server/static"
in_a_browser = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium binary")]
REFUSED = "Failed to load resource: "  # what Chromium says of a status above 399, and of a server that is gone

# Object URLs that are alive, violations of the security policy, and what was said to screen readers.
WATCH = """
window.alive = new Set(); window.violations = []; window.spoken = [];
const make = URL.createObjectURL, drop = URL.revokeObjectURL;
URL.createObjectURL = it => { const url = make.call(URL, it); alive.add(url); return url; };
URL.revokeObjectURL = url => { alive.delete(url); drop.call(URL, url); };
addEventListener('securitypolicyviolation', e => violations.push(e.violatedDirective + ' ' + e.blockedURI));
addEventListener('DOMContentLoaded', () => new MutationObserver(() => spoken.push(document.getElementById('said').textContent))
  .observe(document.getElementById('said'), {childList: true, characterData: true, subtree: true}));
"""


# Models, photos, servers.


def photo(folder: Path, name: str, *, size: tuple[int, int] = (40, 30), seed: int = 0, **options: Any) -> Path:
    """A noisy photo (width, height) of some colour."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(rng.integers(30, 220, 3), 30, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


def bundles(folder: Path) -> list[str]:
    """A calibrated model, one to which every photo is unknown, and one of many labels."""
    plain = made(folder / "beasts", CLASSES)
    _change(plain, temperature=1.5)
    strange = made(folder / "strange", CLASSES)
    _change(strange, temperature=1.5, unknown=Unknown(np.zeros(32, np.float32), np.eye(32, dtype=np.float32), 1e-6, 40))
    config = ViTConfig(
        embed_dim=32, depth=1, num_heads=2, mlp_dim=48, patch_size=(4, 4), image_size=(16, 32), num_classes=3
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    assert model.head is not None
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    record = Preprocess((16, 32), fit="squash")
    scene = Bundle(model.eval(), record, ("sky", "sea", "land"), task=MULTI, thresholds=(0.0, 1.0, 0.0), licence="MIT")
    return [str(plain), str(strange), f"scenes={scene.save(folder / 'of many labels')}"]


def _change(folder: Path, **facts: Any) -> None:
    from vitkit.zoo.load import load_model

    bundle = load_model(folder)
    for name, value in facts.items():
        setattr(bundle, name, value)
    shutil.rmtree(folder)
    bundle.save(folder)


class Served(NamedTuple):
    """A running server, and how a test asks it without the page."""

    url: str

    def predict(self, path: Path, model: str = "beasts") -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/v1/models/{model}:predict",
            content=path.read_bytes(),
            headers={"Content-Type": "application/octet-stream"},
        )
        return answer.raise_for_status().json()["predictions"][0]


@contextmanager
def serving(models: list[str], **options: Any) -> Iterator[Served]:
    from vitkit.server.app import create_app
    from vitkit.server.logs import Log
    from vitkit.server.models import Opening
    from vitkit.server.running import Running, address_of, listen

    app = create_app(models, opening=Opening("eager", "fp32"), log=Log("json", io.StringIO()), **options)
    bound, started = listen("127.0.0.1", 0), threading.Event()
    running = Running(app, bound, reload=False, started=started.set)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        assert started.wait(30)
        yield Served(address_of(bound))
    finally:
        running.stop()
        thread.join(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def models(folder: Path) -> list[str]:
    return bundles(folder)


@pytest.fixture(scope="module")
def served(models: list[str]) -> Iterator[Served]:
    with serving(models) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(models: list[str]) -> Iterator[Served]:
    """A server of one model with a key, that takes little."""
    from vitkit.server.keys import Keys
    from vitkit.server.limits import Limits

    with serving(models[:1], keys=Keys(("right-key-1",)), limits=Limits(body_bytes=20_000, pixels=5_000)) as found:
        yield found


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def browser(driver: Any) -> Iterator[Any]:
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a camera with a moving pattern
    shown = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", *fake])
    yield shown
    shown.close()


@contextmanager
def visiting(
    browser: Any, served: Served, *, ready: bool = True, before: Callable[[Any], object] | None = None, **options: Any
) -> Iterator[Any]:
    """The page, watched: nothing is asked of others, nothing is complained of but refusals that a test means."""
    context = browser.new_context(**{"viewport": DESK, "accept_downloads": True, "reduced_motion": "reduce", **options})
    context.set_default_timeout(15_000)
    context.add_init_script(WATCH)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("response", lambda r: errors.append(r.url) if r.status >= 400 and "/v1/" not in r.url else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on(
        "console",
        lambda m: errors.append(m.text) if m.type in ("error", "warning") and not m.text.startswith(REFUSED) else None,
    )
    try:
        if before:
            before(page)
        page.goto(served.url)
        if ready:
            page.wait_for_selector("#file:enabled", state="attached")
        yield page
        assert page.evaluate("violations") == []
        assert errors == []
        assert [url for url in asked if not url.startswith((f"{served.url}/", "blob:", "data:"))] == []
    finally:
        context.close()


def until(page: Any, expression: str, argument: Any = None) -> None:
    """Wait for an expression to hold. Asked from outside, as the page's own policy forbids to evaluate strings."""
    end = time.monotonic() + 15
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def answered(page: Any) -> str:
    page.wait_for_selector("#answer:not(.busy) .headline")
    return re.sub("[ \n]+", " ", page.locator("#answer .headline").inner_text())


def percent(part: float) -> str:
    shown = 100 * part
    text = "< 0.1 %" if 0 < shown < 0.1 else "> 99.9 %" if 99.9 < shown < 100 else f"{shown:.1f} %"
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def rows_of(page: Any, button: str) -> list[list[str]]:
    with page.expect_download() as waited:
        page.locator(button).click()
    return list(csv.reader(io.StringIO(Path(waited.value.path()).read_text(encoding="utf-8"), newline="")))


def sideways(page: Any) -> int:
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


# Without a browser.


def test_the_page_holds_nothing_that_its_policy_forbids_and_asks_no_one_else() -> None:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "<style" not in text
    assert not re.search(r"\s(style|on\w+)=", text)
    assert re.findall(r"<script[^>]*>([^<]*)", text) == [""]
    for path in STATIC.iterdir():
        written = path.read_text(encoding="utf-8")
        assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", written)) <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|localStorage|cookie", written
        )


def test_the_page_and_its_parts_are_served_with_their_types(served: Served) -> None:
    page = httpx.get(served.url)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    parts = set(re.findall(r'(?:href|src)="(static/[^"]+)"', page.text))
    assert parts == {"static/icon.svg", "static/style.css", "static/app.js"}
    types = {".svg": "image/svg+xml", ".css": "text/css", ".js": "javascript"}
    for path in STATIC.iterdir():
        if path.suffix in types:
            assert types[path.suffix] in httpx.get(f"{served.url}/static/{path.name}").headers["content-type"]


# In a browser.


class TestPhoto:
    pytestmark = in_a_browser

    def test_an_upload_shows_the_photo_its_classes_and_the_times(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        path = photo(tmp_path, "a cat.png")
        expected = served.predict(path)
        with visiting(browser, served) as page:
            assert "Nothing yet" in page.locator("#answer").inner_text()
            page.set_input_files("#file", path)
            assert answered(page) == f"{expected['prediction']} {percent(expected['probability'])}"
            bars = [line.inner_text().split("\n") for line in page.locator(".bars li").all()]
            assert bars == [[one["class"], percent(one["probability"])] for one in expected["top"]]
            told = page.locator(".bars .figure").evaluate_all("all => all.map(e => Number(e.title))")
            assert told == [one["probability"] for one in expected["top"]]  # to the last digit: its own bytes were sent
            widths = page.locator(".bars i").evaluate_all(
                "all => all.map(i => i.offsetWidth / i.parentNode.offsetWidth)"
            )
            assert widths == pytest.approx([one["probability"] for one in expected["top"]], abs=0.01)
            said = page.locator("#answer").inner_text()
            assert "Confidence is calibrated" in said
            assert "cannot tell photos of something else" in said
            assert re.fullmatch(r"[\d.]+ m?s", page.locator("#server-time").inner_text())
            assert re.fullmatch(r"[\d.]+ m?s", page.locator("#round-trip").inner_text())
            assert page.evaluate("picture.naturalWidth / picture.naturalHeight") == 40 / 30
            assert "a cat.png · 40 × 30 pixels" in page.locator("#caption").inner_text()
            assert any(f"{expected['prediction']}, " in line for line in page.evaluate("spoken"))
            page.set_input_files("#file", photo(tmp_path, "second.png", seed=3))
            until(page, "caption.textContent.startsWith('second')")
            assert page.evaluate("alive.size") == 1  # the first photo was given back

    def test_a_turned_photo_stands_upright_and_the_map_lies_where_the_model_saw(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # the file lies on its side
        path = photo(tmp_path, "turned.jpg", size=(60, 40), exif=exif)
        with visiting(browser, served) as page:
            page.set_input_files("#file", path)
            answered(page)
            assert page.evaluate("[picture.naturalWidth, picture.naturalHeight]") == [40, 60]
            page.get_by_role("button", name="Show the attention map").click()
            page.wait_for_selector("#seen", state="visible")
            frame, seen, heat = (page.locator(f"#{name}").bounding_box() for name in ("picture", "seen", "heat"))
            assert seen["width"] == pytest.approx(frame["width"], abs=1)  # a centre crop: 40 of 60 rows
            assert seen["height"] == pytest.approx(frame["width"], abs=1)
            assert seen["y"] - frame["y"] == pytest.approx(frame["height"] / 6, abs=1)
            assert heat == pytest.approx(seen)
            assert "did not see" in page.locator("#map-text").inner_text()

    def test_paste_and_drop_bring_photos_and_say_so_where_they_do_not(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        data = base64.b64encode(photo(tmp_path, "x.png").read_bytes()).decode()
        send = """([kind, data, target]) => {
          const transfer = new DataTransfer(), init = {bubbles: true, cancelable: true};
          const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
          if (data) transfer.items.add(new File([bytes], kind + '.png', {type: 'image/png'}));
          else transfer.setData('text/plain', 'words');
          document.querySelector(target).dispatchEvent(kind === 'paste'
            ? new ClipboardEvent('paste', {...init, clipboardData: transfer})
            : new DragEvent(kind, {...init, dataTransfer: transfer})); }"""
        with visiting(browser, served) as page:
            page.evaluate(send, ["paste", data, "body"])
            answered(page)
            assert page.locator("#caption").inner_text().startswith("paste.png")
            page.evaluate(send, ["dragenter", data, "#answer"])
            assert "over" in page.locator("#drop").get_attribute("class")
            page.evaluate(send, ["drop", data, "#answer"])
            until(page, "caption.textContent.startsWith('drop.png')")
            assert "over" not in page.locator("#drop").get_attribute("class")
            page.evaluate(send, ["paste", "", "body"])
            assert "What came is no file" in page.locator("#input-trouble").inner_text()

    def test_a_real_clipboard_can_be_pasted_with_the_button(self, browser: Any, served: Served) -> None:
        allowed = ["clipboard-read", "clipboard-write"]
        with visiting(browser, served, permissions=allowed) as page:
            page.evaluate(
                """async () => { const canvas = new OffscreenCanvas(32, 24); canvas.getContext('2d').fillRect(0, 0, 9, 9);
                await navigator.clipboard.write([new ClipboardItem({'image/png': await canvas.convertToBlob()})]); }"""
            )
            page.get_by_role("button", name="Paste", exact=True).click()
            answered(page)
            assert "pasted.png · 32 × 24 pixels" in page.locator("#caption").inner_text()

    def test_the_camera_gives_a_photo_and_is_let_go(self, browser: Any, served: Served) -> None:
        with visiting(browser, served, permissions=["camera"]) as page:
            page.get_by_role("button", name="Use the camera").click()
            page.wait_for_selector("#camera-take:enabled")
            tracks = page.evaluate_handle("document.getElementById('camera-video').srcObject.getTracks()")
            page.keyboard.press("Escape")
            page.wait_for_selector("#camera", state="hidden")
            until(page, "tracks => tracks.every(t => t.readyState === 'ended')", tracks)
            page.get_by_role("button", name="Use the camera").click()
            page.wait_for_selector("#camera-take:enabled")
            page.get_by_role("button", name="Take the photo").click()
            answered(page)
            assert page.locator("#caption").inner_text().startswith("camera.jpg · ")
            assert page.evaluate("document.getElementById('camera-video').srcObject") is None

    @pytest.mark.parametrize(
        ("broken", "said"),
        [
            (
                "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') }",
                "Allow it in the browser's settings",
            ),
            (
                "Object.defineProperty(navigator, 'mediaDevices', {value: undefined})",
                "over https or from this machine",
            ),
        ],
        ids=["refused", "insecure"],
    )
    def test_where_there_is_no_camera_the_page_says_why(
        self, browser: Any, served: Served, broken: str, said: str
    ) -> None:
        with visiting(browser, served, before=lambda page: page.add_init_script(broken)) as page:
            page.get_by_role("button", name="Use the camera").click()
            until(page, "said => document.getElementById('camera-text').textContent.includes(said)", said)
            assert page.locator("#camera-take").is_disabled()

    def test_a_photo_that_the_browser_cannot_show_is_answered_all_the_same(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        path = photo(tmp_path, "scan.tiff")
        with visiting(browser, served) as page:
            page.set_input_files("#file", path)
            assert answered(page).startswith(served.predict(path)["prediction"])
            assert "cannot show the file" in page.locator("#placeholder").inner_text()
            assert not page.locator("#frame").is_visible()
            assert not page.locator("#map").is_visible()  # there is nothing to lay it over


class TestAnswers:
    pytestmark = in_a_browser

    def test_models_can_be_changed_and_each_tells_what_it_knows(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        path = photo(tmp_path, "a.png")
        with visiting(browser, served) as page:
            assert page.locator("#model option").all_inner_texts() == ["beasts", "strange", "scenes"]
            assert "knows 6 classes" in page.locator("#lead").inner_text()
            page.set_input_files("#file", path)
            answered(page)

            page.select_option("#model", "strange")
            page.wait_for_selector("#answer .headline.none")
            expected = served.predict(path, "strange")
            assert expected["unknown"] is True
            assert answered(page) == "None of these"
            said = page.locator("#answer").inner_text()
            assert f"The closest class, {expected['prediction']}, is no more than a guess." in said
            assert "calibrated" not in said  # what holds for known photos only
            assert "Closest classes" in said
            assert "learnt from" in page.evaluate("spoken.at(-1)")

            page.select_option("#model", "scenes")
            until(page, "document.querySelector('#answer .headline').textContent.includes('sky')")
            assert answered(page) == "sky, land"
            found = page.locator(".bars .found .name").all_inner_texts()
            assert sorted(found) == ["land", "sky"]
            assert page.locator(".bars li:not(.found) .name").all_inner_texts() == ["sea"]
            assert "not calibrated" in page.locator("#answer").inner_text()
            about = page.locator("#about").inner_text()
            for fact in (
                "scenes",
                "any number of classes",
                "32 × 16 pixels",
                "not calibrated",
                "cannot be told",
                "MIT",
            ):
                assert fact in about
            assert "sky, sea, land" in about
            page.get_by_role("button", name="Show the attention map").click()
            page.wait_for_selector("#seen", state="visible")
            assert page.locator("#explained").input_value() in ("sky", "land")
            assert "did not see" not in page.locator("#map-text").inner_text()  # squashed: it saw all

    def test_one_model_needs_no_chooser_and_nothing_served_is_markup(
        self, browser: Any, guarded: Served, served: Served
    ) -> None:
        keep = "sessionStorage.setItem('vitkit-api-key', 'right-key-1')"
        with visiting(browser, guarded, before=lambda page: page.add_init_script(keep)) as page:
            assert not page.locator("#chooser").is_visible()
            assert "<b>owl</b>" in page.locator("#about").inner_text()
            assert page.locator("#about b").count() == 0

    def test_the_map_comes_when_asked_for_and_the_slider_fades_it(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        with visiting(browser, served) as page:
            asked: list[str] = []
            page.on("request", lambda r: asked.append(r.url) if ":explain" in r.url else None)
            page.set_input_files("#file", photo(tmp_path, "a.png"))
            best = answered(page).rsplit(" ", 1)[0]
            assert asked == []
            page.get_by_role("button", name="Show the attention map").click()
            page.wait_for_selector("#seen", state="visible")
            assert len(asked) == 1
            assert page.locator("#explained").input_value() == best
            assert page.locator("#heat").get_attribute("alt") == f"Map of where the model looked for {best}"
            assert page.evaluate("heat.naturalWidth") > 10
            for value in ("0", "45", "100"):
                page.locator("#opacity").fill(value)
                assert page.locator("#heat").evaluate("e => getComputedStyle(e).opacity") == f"{int(value) / 100:g}"
                assert page.locator("#opacity-value").inner_text() == f"{value} %"
            before = page.locator("#heat").get_attribute("src")
            other = next(name for name in CLASSES if name != best)
            page.select_option("#explained", other)
            until(page, "before => heat.src && heat.src !== before", before)
            page.wait_for_selector("#seen", state="visible")
            assert f"What spoke for {other}" in page.locator("#map-text").inner_text()
            assert page.evaluate("alive.size") == 2  # the photo and its one map
            page.get_by_role("button", name="Hide the attention map").click()
            assert not page.locator("#seen").is_visible()
            assert page.evaluate("alive.size") == 1

    def test_a_model_that_was_exchanged_meanwhile_is_described_anew(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        asked: list[str] = []

        def older(route: Any) -> None:
            facts = route.fetch().json()
            asked.append(facts["models"][0]["version"])
            if len(asked) == 1:
                facts["models"][0].update(version="of yesterday", licence="an old one")
            route.fulfill(json=facts)

        with visiting(browser, served, before=lambda page: page.route("**/v1/models", older)) as page:
            assert "an old one" in page.locator("#about").inner_text()
            page.set_input_files("#file", photo(tmp_path, "a.png"))
            answered(page)
            until(page, "name => document.getElementById('about-body').textContent.includes(name)", asked[0][:12])
            assert "an old one" not in page.locator("#about").inner_text()
            assert len(asked) == 2

    def test_a_model_that_cannot_be_explained_offers_no_map(self, browser: Any, served: Served, tmp_path: Path) -> None:
        def mute(route: Any) -> None:
            facts = route.fetch().json()
            for model in facts["models"]:
                model["explains"] = False
            route.fulfill(json=facts)

        with visiting(browser, served, before=lambda page: page.route("**/v1/models", mute)) as page:
            page.set_input_files("#file", photo(tmp_path, "a.png"))
            answered(page)
            assert not page.locator("#map").is_visible()
            assert "cannot be explained" in page.locator("#about").inner_text()


class TestErrors:
    pytestmark = in_a_browser

    def test_a_broken_file_is_told_in_the_servers_words_and_the_next_photo_works(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo at all")
        told = httpx.post(
            f"{served.url}/v1/models/beasts:predict",
            content=(tmp_path / "broken.jpg").read_bytes(),
            headers={"Content-Type": "image/jpeg"},
        ).json()["error"]["message"]
        with visiting(browser, served) as page:
            page.set_input_files("#file", tmp_path / "broken.jpg")
            trouble = page.locator("#answer .trouble")
            trouble.wait_for()
            assert trouble.inner_text().split("\n")[0] == "This file cannot be used."
            assert told in trouble.inner_text()
            assert any(told in line for line in page.evaluate("spoken"))
            (tmp_path / "empty.jpg").touch()
            page.set_input_files("#file", tmp_path / "empty.jpg")
            page.get_by_text("empty.jpg is empty").first.wait_for()
            page.set_input_files("#file", photo(tmp_path, "a.png"))
            answered(page)
            assert page.locator("#answer .trouble").count() == 0

    def test_what_is_too_large_is_said_before_it_is_sent_and_the_key_is_asked_for(
        self, browser: Any, guarded: Served, tmp_path: Path
    ) -> None:
        with visiting(browser, guarded, ready=False) as page:
            asked: list[str] = []
            page.on("request", lambda r: asked.append(r.method))
            key = page.get_by_label("API key", exact=True)
            key.wait_for()
            assert key.evaluate("e => e === document.activeElement")
            page.keyboard.press("Escape")
            page.get_by_text("This server asks for an API key.").first.wait_for()
            page.get_by_role("button", name="Try again").click()
            key.fill("wrong-key")
            page.keyboard.press("Enter")
            page.get_by_text("did not accept this key").wait_for()
            key.fill("spaces in it")
            page.get_by_role("button", name="Use this key").click()
            page.get_by_text("without spaces").wait_for()
            key.fill(" right-key-1\t")
            page.get_by_role("button", name="Use this key").click()
            page.wait_for_selector("#file:enabled", state="attached")
            assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [
                ["right-key-1"], 0, "",
            ]  # fmt: skip
            asked.clear()
            page.set_input_files("#file", photo(tmp_path, "large.png", size=(200, 200)))
            trouble = page.locator("#answer .trouble")
            trouble.wait_for()
            assert re.search(r"large\.png has \d+ kB; this server takes at most 20\.0 kB", trouble.inner_text())
            assert "POST" not in asked
            small = Image.new("RGB", (100, 80))
            small.save(tmp_path / "many-pixels.png")
            page.set_input_files("#file", tmp_path / "many-pixels.png")  # few bytes, more pixels than the server takes
            page.get_by_text("pixels").first.wait_for()
            until(page, "document.querySelector('#answer .trouble')?.textContent.includes('pixel')")
            assert trouble.inner_text().startswith("The photo is too large.")
            page.set_input_files("#file", photo(tmp_path, "small.png"))
            answered(page)

    def test_a_busy_server_is_asked_again_when_it_said(self, browser: Any, served: Served, tmp_path: Path) -> None:
        left = [2]

        def busy(route: Any) -> None:
            if left[0]:
                left[0] -= 1
                error = {"error": {"code": "too_busy", "message": "128 images wait", "status": 429}}
                route.fulfill(status=429, headers={"Retry-After": "1"}, json=error)
            else:
                route.continue_()

        with visiting(browser, served, before=lambda page: page.route("**:predict?**", busy)) as page:
            page.set_input_files("#file", photo(tmp_path, "a.png"))
            page.get_by_text("Trying again in 1 s").wait_for()
            answered(page)
            left[0] = 3  # of a table all wait together
            page.set_input_files("#file", [photo(tmp_path, f"{i}.png", seed=i) for i in range(8)])
            page.get_by_text("the server is busy, waiting").wait_for()
            page.wait_for_selector("#batch-clear", state="visible")
            assert "8 of 8 photos" in page.locator("#batch-text").inner_text()
            assert page.locator("#batch-errors").is_hidden()

    def test_a_server_that_is_gone_is_told_and_can_be_tried_again(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        gone = [True]

        def cut(route: Any) -> None:
            route.abort() if gone[0] else route.continue_()

        def odd(route: Any) -> None:
            route.fulfill(status=502, body="<html>Bad gateway")

        with visiting(browser, served) as page:
            page.route("**:predict?**", odd)
            page.set_input_files("#file", photo(tmp_path, "a.png"))
            page.get_by_text("The answer was 502 Bad Gateway, without a reason.").first.wait_for()
            page.unroute("**:predict?**")
            page.get_by_role("button", name="Try again").click()
            answered(page)
            # A table stops where every file would fail alike, and goes on from there.
            page.route("**:predict?**", cut)
            with page.expect_event("requestfailed"):
                page.set_input_files("#file", [photo(tmp_path, f"{i}.png", seed=i) for i in range(9)])
            page.get_by_role("button", name="Continue").wait_for()
            assert "The server cannot be reached." in page.locator("#batch-trouble").inner_text()
            gone[0] = False
            page.get_by_role("button", name="Continue").click()
            page.wait_for_selector("#batch-clear:visible")
            until(page, "document.getElementById('batch-text').textContent.startsWith('9 of 9')")
            assert len(rows_of(page, "#batch-csv")) == 10


class TestBatch:
    pytestmark = in_a_browser

    def test_many_photos_give_a_table_and_a_csv_as_predict_writes_it(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        names = ["=cmd().png", 'a, "b".png', "-1.png", "ünïcode 图.png", *(f"p{i}.png" for i in range(20))]
        paths = [photo(tmp_path, name, seed=seed) for seed, name in enumerate(names)]
        (tmp_path / "broken.jpg").write_bytes(b"no")
        paths.insert(5, tmp_path / "broken.jpg")
        expected = {path.name: served.predict(path) for path in paths if path.name != "broken.jpg"}
        with visiting(browser, served) as page:
            flying, most = [0], [0]

            def sent(request: Any) -> None:
                if ":predict" in request.url:
                    flying[0] += 1
                    most[0] = max(most[0], flying[0])

            def ended(request: Any) -> None:
                flying[0] -= ":predict" in request.url

            page.on("request", sent)
            page.on("requestfinished", ended)
            page.set_input_files("#file", paths)
            page.wait_for_selector("#batch-clear", state="visible")
            assert 1 < most[0] <= 4
            said = page.locator("#batch-text").inner_text()
            assert said.startswith("25 of 25 photos · by beasts · 1 could not be used · took ")
            assert page.locator("#batch-progress").evaluate("e => e.value / e.max") == 1
            rows = rows_of(page, "#batch-csv")
            assert rows[0] == ["path", "prediction", "probability"]
            shown = [name for name in (path.name for path in paths) if name != "broken.jpg"]
            safe = {name: f"'{name}" if name[0] in "=-" else name for name in (*shown, *CLASSES)}
            assert rows[1:] == [
                [safe[name], safe[expected[name]["prediction"]], rows[1 + i][2]] for i, name in enumerate(shown)
            ]
            assert [float(row[2]) for row in rows[1:]] == [expected[name]["probability"] for name in shown]
            errors = rows_of(page, "#batch-errors")
            assert errors[0] == ["path", "reason"]
            assert errors[1][0] == "broken.jpg"
            cells = page.locator("#batch-rows tr").nth(1).locator("th, td").all_inner_texts()
            first = expected[names[1]]
            assert cells[1:] == [names[1], first["prediction"], percent(first["probability"])]
            page.locator("#batch-rows tr").nth(23).scroll_into_view_if_needed()
            until(page, "document.querySelectorAll('#batch-rows img').length >= 10")
            until(page, "alive.size <= 2")  # downloads alone: thumbnails were given back at once
            assert any(line.startswith("Done: ") for line in page.evaluate("spoken"))
            page.get_by_role("button", name=names[1]).click()  # a row opens its photo
            assert answered(page) == f"{first['prediction']} {percent(first['probability'])}"
            page.get_by_role("button", name="Clear").click()
            assert not page.locator("#batch").is_visible()
            assert page.evaluate("document.activeElement.id") == "file"

    def test_unknown_is_a_column_where_it_is_told_and_labels_are_joined(
        self, browser: Any, served: Served, tmp_path: Path
    ) -> None:
        paths = [photo(tmp_path, f"{i}.png", seed=i) for i in range(3)]
        with visiting(browser, served) as page:
            page.select_option("#model", "strange")
            page.set_input_files("#file", paths)
            page.wait_for_selector("#batch-clear", state="visible")
            rows = rows_of(page, "#batch-csv")
            assert rows[0] == ["path", "prediction", "probability", "unknown"]
            assert {row[3] for row in rows[1:]} == {"true"}
            assert "3 none of these" in page.locator("#batch-text").inner_text()
            assert "none of these" in page.locator("#batch-rows").inner_text()
            page.select_option("#model", "scenes")
            page.set_input_files("#file", paths)
            until(page, "document.getElementById('batch-text').textContent.includes('scenes · took')")
            rows = rows_of(page, "#batch-csv")
            assert rows[0] == ["path", "prediction", "probability"]
            assert {row[1] for row in rows[1:]} == {"sky|land"}

    def test_a_folder_is_walked_without_what_is_no_image(self, browser: Any, served: Served, tmp_path: Path) -> None:
        inner = tmp_path / "trip" / "day 2"
        inner.mkdir(parents=True)
        photo(inner, "b.png")
        photo(inner.parent, "c.JPG", format="JPEG")
        (inner / "notes.txt").write_text("no image")
        (inner / ".hidden.png").write_text("no image")
        with visiting(browser, served) as page:
            page.set_input_files("#folder", inner.parent)
            page.wait_for_selector("#batch-clear", state="visible")
            assert "2 of 2 photos · by beasts · 2 other files left out" in page.locator("#batch-text").inner_text()
            assert [row[0] for row in rows_of(page, "#batch-csv")[1:]] == ["trip/c.JPG", "trip/day 2/b.png"]

    def test_files_and_folders_can_be_dropped_together(self, browser: Any, served: Served, tmp_path: Path) -> None:
        inner = tmp_path / "trip" / "day 2"
        inner.mkdir(parents=True)
        photo(inner, "b.png")
        (inner / "notes.txt").write_text("no image")
        loose = photo(tmp_path, "z.png")
        with visiting(browser, served) as page:
            devices = page.context.new_cdp_session(page)
            data = {"items": [], "files": [str(inner.parent), str(loose)], "dragOperationsMask": 1}
            for kind in ("dragEnter", "dragOver", "drop"):  # as from a window of the system
                devices.send("Input.dispatchDragEvent", {"type": kind, "x": 900, "y": 300, "data": data})
            page.wait_for_selector("#batch-clear", state="visible")
            assert "2 of 2 photos · by beasts · 1 other file left out" in page.locator("#batch-text").inner_text()
            assert [row[0] for row in rows_of(page, "#batch-csv")[1:]] == ["z.png", "trip/day 2/b.png"]

    def test_a_table_can_be_cancelled_and_continued(self, browser: Any, served: Served, tmp_path: Path) -> None:
        held: list[Any] = []
        hold = [True]

        def slow(route: Any) -> None:
            if hold[0] and len(held) >= 4:
                return  # never answered
            held.append(route)
            route.continue_()

        with visiting(browser, served, before=lambda page: page.route("**:predict?**", slow)) as page:
            page.set_input_files("#file", [photo(tmp_path, f"{i:02d}.png", seed=i) for i in range(12)])
            until(page, "document.getElementById('batch-text').textContent.startsWith('4 of 12')")
            until(page, "document.getElementById('batch-text').textContent.includes('left')")
            page.get_by_role("button", name="Cancel").click()
            page.get_by_role("button", name="Continue").wait_for()
            assert page.evaluate("document.activeElement.id") == "batch-continue"
            assert "stopped" in page.locator("#batch-text").inner_text()
            assert len(rows_of(page, "#batch-csv")) == 5
            hold[0] = False
            page.get_by_role("button", name="Continue").click()
            until(page, "document.getElementById('batch-text').textContent.startsWith('12 of 12')")
            page.wait_for_selector("#batch-clear", state="visible")
            assert [row[0] for row in rows_of(page, "#batch-csv")[1:]] == [f"{i:02d}.png" for i in range(12)]


class TestAccess:
    pytestmark = in_a_browser

    def test_the_keyboard_alone_is_enough(self, browser: Any, served: Served, tmp_path: Path) -> None:
        def reach(page: Any, wanted: str) -> None:
            for _ in range(40):
                page.keyboard.press("Tab")
                name, ring = page.evaluate(
                    """() => { const e = document.activeElement;
                    const seen = e.type === 'file' ? e.nextElementSibling : e, s = getComputedStyle(seen);
                    return [e.id, s.outlineStyle + ' ' + parseFloat(s.outlineWidth)]; }"""
                )
                if name or page.evaluate("document.activeElement !== document.body"):
                    assert ring == "solid 3", name  # wherever the focus is, it shows
                if name == wanted:
                    return
            raise AssertionError(f"{wanted} was not reached")

        choosers: list[Any] = []

        def choose(key: str, files: Any) -> None:
            page.keyboard.press(key)
            end = time.monotonic() + 15
            while not choosers:
                assert time.monotonic() < end, f"{key} opened no chooser"
                page.wait_for_timeout(20)
            choosers.pop().set_files(files)

        paths = [photo(tmp_path, f"{i}.png", seed=i) for i in range(3)]
        # The choosers are caught from the beginning: to catch one while a key is pressed may be too late.
        with visiting(
            browser, served, before=lambda page: page.on("filechooser", lambda c: choosers.append(c))
        ) as page:
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
            page.keyboard.press("Enter")
            reach(page, "file")
            choose("Space", paths[0])
            answered(page)
            page.evaluate("document.activeElement.blur()")
            reach(page, "map-toggle")
            page.keyboard.press("Enter")
            page.wait_for_selector("#seen", state="visible")
            reach(page, "opacity")
            page.keyboard.press("ArrowLeft")
            assert page.locator("#heat").evaluate("e => getComputedStyle(e).opacity") == "0.75"
            before = page.locator("#heat").get_attribute("src")
            reach(page, "explained")
            page.keyboard.press("ArrowDown")
            until(page, "before => heat.src && heat.src !== before", before)
            reach(page, "file")
            choose("Enter", paths)
            page.wait_for_selector("#batch-clear", state="visible")
            reach(page, "batch-csv")
            with page.expect_download() as waited:
                page.keyboard.press("Enter")
            assert waited.value.suggested_filename == "predictions.csv"

    @pytest.mark.parametrize(
        "look",
        [
            {"color_scheme": "light"},
            {"color_scheme": "dark"},
            {"color_scheme": "light", "viewport": PHONE, "is_mobile": True, "has_touch": True},
        ],
        ids=["light", "dark", "phone"],
    )
    def test_axe_finds_nothing_serious_in_any_state(
        self, browser: Any, served: Served, guarded: Served, tmp_path: Path, look: dict[str, Any]
    ) -> None:
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

        def check(page: Any, state: str) -> None:
            found = axe.run(page).response["violations"]
            bad = [
                (one["id"], [node["html"][:120] for node in one["nodes"]])
                for one in found
                if one["impact"] in ("serious", "critical")
            ]
            assert bad == [], state
            assert sideways(page) <= 0, state

        with visiting(browser, served, **look) as page:
            check(page, "empty")
            page.set_input_files("#file", photo(tmp_path, "a_name_of_one_long_word_that_goes_on_and_on_and_on.png"))
            answered(page)
            check(page, "result")
            page.get_by_role("button", name="Show the attention map").click()
            page.wait_for_selector("#seen", state="visible")
            check(page, "map")
            (tmp_path / "broken.jpg").write_bytes(b"no")
            names = [photo(tmp_path, f"{'long_name_' * 9}{i}.png", seed=i) for i in range(2)]
            page.select_option("#model", "strange")
            page.wait_for_selector("#answer:not(.busy) .headline.none")
            page.set_input_files("#file", [*names, tmp_path / "broken.jpg"])
            page.wait_for_selector("#batch-clear", state="visible")
            check(page, "batch, none of these")
            page.select_option("#model", "scenes")
            until(page, "document.querySelector('#answer .headline').textContent.includes('sky')")
            page.set_input_files("#file", tmp_path / "broken.jpg")
            page.wait_for_selector("#answer .trouble")
            check(page, "error")
            page.get_by_role("button", name="Use the camera").click()
            page.wait_for_selector("#camera", state="visible")
            check(page, "camera")
        with visiting(browser, guarded, ready=False, **look) as page:
            page.get_by_label("API key", exact=True).wait_for()
            check(page, "key")

    def test_nothing_moves_where_less_motion_is_asked_for(self, browser: Any, served: Served, tmp_path: Path) -> None:
        path = photo(tmp_path, "a.png")
        moving = {}
        for motion in ("reduce", "no-preference"):
            with visiting(browser, served, reduced_motion=motion) as page:
                page.set_input_files("#file", path)
                answered(page)
                moving[motion] = page.evaluate(
                    "[getComputedStyle(document.querySelector('.bars i')).animationName,"
                    " getComputedStyle(document.querySelector('.button')).transitionDuration]"
                )
        assert moving["reduce"] == ["none", "0s"]
        assert moving["no-preference"][0] == "grow"

    def test_classes_of_all_kinds_are_told_in_json_alike(self, served: Served) -> None:
        facts = httpx.get(f"{served.url}/v1/models").json()
        assert json.loads(json.dumps(facts["models"][0]["classes"])) == list(CLASSES)
        assert {"body_bytes", "pixels"} <= set(facts["limits"])  # what the page tells before it sends
