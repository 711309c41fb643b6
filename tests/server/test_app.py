"""The server as clients see it: answers equal to those of `vit predict`, and one form for what is refused."""

from __future__ import annotations

import base64
import csv
import json
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from live import Live, drained, live, until
from pictures import encoded, png
from shared import shared_data
from small_models import made
from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.data.pixels import Preprocess
from vitkit.jobs.export import export
from vitkit.jobs.predict import predict
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.server.limits import Limits
from vitkit.unknown import Unknown

CLASSES = ("rose", "tulip", "lily", "daisy", "iris")
LIMITS = Limits(body_bytes=2 * 2**20, images=6)
ROUTE = "/v1/models/flowers:predict"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """flowers: of 16 pixels. scenes: of several labels, 8x12 pixels, which tells what it does not know."""
    folder = tmp_path_factory.mktemp("models")
    made(folder / "flowers", CLASSES)
    config = ViTConfig(
        embed_dim=32, depth=1, num_heads=2, mlp_dim=48, patch_size=(4, 4), image_size=(8, 12), num_classes=3
    )
    model = VisionTransformer(config)
    model.init_weights(1)
    assert model.head is not None
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    unknown = Unknown(np.zeros(32), np.eye(32), 0.5, 100)
    record = Preprocess((8, 12), fit="squash")
    bundle = Bundle(
        model.eval(),
        record,
        ("sea", "sky", "sand"),
        task=MULTI,
        thresholds=(0.4, 0.5, 0.6),
        unknown=unknown,
        licence="CC0",
    )
    bundle.save(folder / "scenes")
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Live]:
    with live([models / "flowers", f"beach={models / 'scenes'}"], limits=LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Each oddity that changes pixels: EXIF orientation, gray, CMYK, palette, transparency, 16 bits."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    rgb = Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "rotated.jpg", exif=exif, quality=95)
    rgb.convert("L").save(folder / "gray.jpg")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("RGBA").rotate(20).save(folder / "clear.png")
    Image.fromarray(random.integers(0, 65536, (33, 20), dtype=np.uint16)).save(folder / "deep.png")
    return sorted(folder.iterdir())


def same(told: dict[str, Any], found: Any, name: str | None) -> None:
    """Digit by digit."""
    assert told["name"] == name
    assert (told["prediction"], told["probability"]) == (found.answer, found.probability)
    assert told["unknown"] is found.unknown
    assert [(each["class"], each["probability"]) for each in told["top"]] == list(
        zip(found.classes, found.probabilities, strict=True)
    )
    assert told.get("labels") == (None if found.labels is None else list(found.labels))


@pytest.mark.parametrize(("name", "folder"), [("flowers", "flowers"), ("beach", "scenes")])
def test_answers_are_those_of_predict_in_every_form(
    server: Live, models: Path, photos: list[Path], name: str, folder: str
) -> None:
    expected = [found for _, found in predict(models / folder, photos, top=3).predictions]
    route = f"/v1/models/{name}:predict"
    for path, found in zip(photos, expected, strict=True):
        for kind in ("image/jpeg", "application/octet-stream"):
            answer = server.http.post(f"{route}?top=3", content=path.read_bytes(), headers={"Content-Type": kind})
            assert answer.status_code == 200
            same(answer.json()["predictions"][0], found, None)
    sent = [("any", (path.name, path.read_bytes())) for path in photos]
    answer = server.http.post(route, files=sent, data={"top": "3"}).json()
    for path, found, told in zip(photos, expected, answer["predictions"], strict=True):
        same(told, found, path.name)
    body = {"images": [base64.b64encode(path.read_bytes()).decode() for path in photos], "top": 3}
    answer = server.http.post(route, json=body).json()
    for found, told in zip(expected, answer["predictions"], strict=True):
        same(told, found, None)
    assert answer["model"] == name
    assert answer["milliseconds"] > 0
    assert answer["engine"].startswith("tuned fp32")


def test_models_and_limits_are_listed(server: Live) -> None:
    found = server.http.get("/v1/models").json()
    assert found["limits"] == {"body_bytes": 2 * 2**20, "pixels": 100_000_000, "images": 6, "seconds": 30.0}
    flowers, beach = found["models"]
    assert (flowers["name"], flowers["default"], flowers["classes"]) == ("flowers", True, list(CLASSES))
    assert (beach["name"], beach["default"], beach["task"], beach["image_size"]) == ("beach", False, MULTI, [8, 12])
    assert (beach["tells_unknown"], beach["licence"]) == (True, "CC0")
    assert flowers["version"] != beach["version"]
    assert server.http.get("/v1/models/beach").json() == beach


def test_odd_images_are_answered_or_refused_as_predict_does(server: Live, models: Path) -> None:
    files = sorted(shared_data("odd_images", "files").iterdir())
    with shared_data("odd_images", "manifest.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) > 0
    result = predict(models / "flowers", files, top=5)
    good, bad = dict(result.predictions), dict(result.skipped)
    for path in files:
        answer = server.http.post(
            ROUTE, content=path.read_bytes(), headers={"Content-Type": "application/octet-stream"}
        )
        if str(path) in good:
            assert answer.status_code == 200, path.name
            same(answer.json()["predictions"][0], good[str(path)], None)
        else:
            refused(answer, 413 if "megapixels" in bad[str(path)] else 422)
    assert good
    assert bad


def refused(answer: Any, status: int, code: str | None = None) -> str:
    """The message of an answer in the one form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "status"}
    assert error["status"] == status
    assert code in (None, error["code"]), error
    return error["message"]


PNG = encoded(Image.new("RGB", (5, 5)))
TEXT = base64.b64encode(PNG).decode()
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("status", "code", "body", "kind"),
    [
        (422, "unreadable_image", b"no image", "image/png"),
        (422, "unreadable_image", b"", "image/png"),
        (422, "unreadable_image", PNG[:40], "image/png"),
        (415, "unsupported_content_type", PNG, "text/plain"),
        (415, "unsupported_content_type", PNG, "application/x-www-form-urlencoded"),
        (415, "unsupported_content_type", PNG, ""),
        (400, "bad_json", b"", "application/json"),
        (400, "bad_json", b"{", "application/json"),
        (400, "bad_json", b"\xff\xfe\xfa{}", "application/json"),
        (400, "bad_json", b"[" * 100_000 + b"]" * 100_000, "application/json"),
        (400, "bad_json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "application/json"),
        (400, "bad_json", b'{"images": NaN}', "application/json"),
        (400, "bad_json", b'{"images": [], "images": []}', "application/json"),
        (400, "bad_json", b'{"images": [], "top": ' + b"9" * 10_000 + b"}", "application/json"),
        (422, "bad_request", b"[]", "application/json"),
        (422, "bad_request", b"7", "application/json"),
        (422, "bad_request", b'{"images": {}}', "application/json"),
        (422, "bad_request", b'{"images": [1]}', "application/json"),
        (422, "no_images", b'{"images": []}', "application/json"),
        (422, "unknown_field", b'{"images": [], "tip": 1}', "application/json"),
        (422, "bad_top", b'{"images": [], "top": 0}', "application/json"),
        (422, "bad_top", b'{"images": [], "top": 1e3}', "application/json"),
        (422, "bad_top", b'{"images": [], "top": true}', "application/json"),
        (422, "bad_top", b'{"images": [], "top": 99999999999999}', "application/json"),
        (400, "bad_base64", b'{"images": ["%%%"]}', "application/json"),
        (413, "too_many_images", json.dumps({"images": [TEXT] * 7}).encode(), "application/json"),
        (400, "bad_multipart", b"", "multipart/form-data"),
        (400, "bad_multipart", b"--b\r\n", "multipart/form-data; boundary=b"),
        (400, "bad_multipart", b"nothing of the kind", "multipart/form-data; boundary=b"),
        (400, "bad_multipart", b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (422, "no_images", b"--b--\r\n", "multipart/form-data; boundary=b"),
        (413, "body_too_large", b"x" * (2 * 2**20 + 1), "image/png"),
    ],
)  # fmt: skip
def test_bodies_that_are_refused(server: Live, status: int, code: str, body: bytes, kind: str) -> None:
    refused(server.http.post(ROUTE, content=body, headers={"Content-Type": kind}), status, code)
    refused(server.http.post(ROUTE.replace("predict", "explain"), content=body, headers={"Content-Type": kind}), status)


@pytest.mark.parametrize(
    ("status", "route"),
    [
        (404, "/v1/models/tulips:predict"),
        (404, "/v1/models/..%2F..%2Fetc:predict"),
        (404, "/v1/models/%00:predict"),
        (404, "/v1/models/flowers%2f:predict"),
        (404, "/v1/models/../../etc/passwd"),
        (405, "/v1/models/flowers"),
        (405, "/v1/models/flowers:train"),
        (404, "/nothing"),
        (405, "/healthz"),
        (405, "/v1/models"),
        (422, f"{ROUTE}?top=0"),
        (422, f"{ROUTE}?top=-1"),
        (422, f"{ROUTE}?top=1e3"),
        (422, f"{ROUTE}?top=%D9%A3"),
        (422, f"{ROUTE}?top={'9' * 5000}"),
        (422, f"{ROUTE}?top=1&top=2"),
        (422, f"{ROUTE}?tip=1"),
    ],
)
def test_addresses_that_are_refused(server: Live, status: int, route: str) -> None:
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(PNG)}\r\nConnection: close\r\n\r\n"
    answer = server.raw(head.encode() + PNG)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["status"] == status


def test_a_method_that_is_not_for_an_address_names_those_that_are(server: Live) -> None:
    assert server.http.get(ROUTE).headers["allow"] == "POST"
    refused(server.http.get(ROUTE), 405, "method_not_allowed")
    assert server.http.delete("/v1/models").headers["allow"] == "GET"


def test_of_several_images_each_has_its_own_error(server: Live) -> None:
    sent = [("a", ("good.png", PNG)), ("a", ("bad.png", b"bad")), ("top", (None, "1"))]
    answer = server.http.post(ROUTE, files=sent)
    good, bad = answer.json()["predictions"]
    assert answer.status_code == 200
    assert len(good["top"]) == 1
    assert (bad["name"], bad["error"]["code"], "top" in bad) == ("bad.png", "unreadable_image", False)
    answer = server.http.post(ROUTE, json={"images": ["", ""]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable_images")
    assert [each["error"]["code"] for each in answer.json()["predictions"]] == ["unreadable_image"] * 2


def test_a_form_says_top_once_and_nothing_else(server: Live) -> None:
    twice = [("a", ("a.png", PNG)), ("top", (None, "1")), ("top", (None, "1"))]
    refused(server.http.post(ROUTE, files=twice), 422, "bad_field")
    answer = server.http.post(f"{ROUTE}?top=3", files=twice[:2]).json()
    assert len(answer["predictions"][0]["top"]) == 1  # the body counts
    refused(server.http.post(ROUTE, files=[("a", ("a.png", PNG)), ("b", (None, "1"))]), 422, "unknown_field")
    refused(server.http.post(ROUTE, files=[("top", (None, "1" * 5000))]), 422, "bad_field")


def test_a_length_beyond_the_limit_is_refused_before_the_body(server: Live) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n"
    answer = server.raw(head % ROUTE.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_gigabyte_is_refused_and_its_sender_reads_why(server: Live, chunked: bool) -> None:
    said = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1000000000"
    part = b"x" * 65536
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n%s\r\n\r\n" % (ROUTE.encode(), said)
        )
        for _ in range(400):  # 26 MB of it
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        answer = drained(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert server.state.held.now == 0
    assert server.http.get("/healthz").status_code == 200


def test_chunks_without_a_length_are_read(server: Live) -> None:
    def parts() -> Iterator[bytes]:
        for start in range(0, len(PNG), 7):
            yield PNG[start : start + 7]

    answer = server.http.post(ROUTE, content=parts(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200


def test_pipelined_requests_are_answered_in_order(server: Live) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    image = b"POST %s?top=1 HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%s"
    last = b"GET /v1/models/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = server.raw(one + image % (ROUTE.encode(), len(PNG), PNG) + one + last)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"200", b"404"]


def test_a_bomb_is_refused_undecoded(server: Live) -> None:
    bomb = png(20_000, 20_000, 1, 0, bytes(2501 * 200))
    message = refused(
        server.http.post(ROUTE, content=bomb, headers={"Content-Type": "image/png"}), 413, "too_many_pixels"
    )
    assert "100 megapixels" in message


def test_answers_carry_what_keeps_browsers_safe(server: Live) -> None:
    for route in ("/", "/docs", "/v1/models", "/nothing", "/openapi.json"):
        headers = server.http.get(route).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    page = server.http.get("/docs").text
    assert "/v1/models/{name}:predict" in page
    assert "<script" not in page
    assert "://" not in page


def test_explaining_gives_a_map_over_what_the_model_saw(server: Live) -> None:
    photo = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)))
    route, kind = "/v1/models/flowers:explain", {"Content-Type": "image/png"}
    found = server.http.post(route, content=photo, headers=kind).json()
    own = server.http.post(ROUTE, content=photo, headers=kind).json()["predictions"][0]
    assert found["prediction"] == own
    assert (found["explained"], found["method"]) == (own["prediction"], "gradient")
    place = {key: round(found["map"][key], 3) for key in ("left", "top", "width", "height")}
    assert place == {"left": 0.25, "top": 0, "width": 0.5, "height": 1}  # a square from the middle
    picture = Image.open(BytesIO(base64.b64decode(found["map"]["png"])))
    assert picture.mode == "RGBA"
    assert picture.width == picture.height
    other = server.http.post(route, params={"class": "iris"}, content=photo, headers=kind).json()
    assert other["explained"] == "iris"
    beach = server.http.post("/v1/models/beach:explain", params={"class": "sand"}, content=photo, headers=kind).json()
    assert beach["explained"] == "sand"
    assert "labels" in beach["prediction"]
    for method in ("rollout", "attention"):
        assert server.http.post(route, params={"method": method}, content=photo, headers=kind).status_code == 200


@pytest.mark.parametrize(
    ("status", "code", "params"),
    [
        (404, "no_such_class", {"class": "irise"}),
        (422, "no_such_method", {"method": "magic"}),
        (422, "no_class_asked", {"method": "rollout", "class": "iris"}),
        (422, "unknown_field", {"top": "1"}),
    ],
)
def test_what_cannot_be_explained_says_why(server: Live, status: int, code: str, params: dict[str, str]) -> None:
    route = "/v1/models/flowers:explain"
    refused(server.http.post(route, params=params, content=PNG, headers={"Content-Type": "image/png"}), status, code)
    refused(server.http.post(route, files=[("a", ("a", PNG))] * 2), 422, "one_image")
    refused(server.http.post(route, content=b"bad", headers={"Content-Type": "image/png"}), 422, "unreadable_image")


def test_the_log_tells_of_requests_and_nothing_of_images(server: Live) -> None:
    sent = [("photo", ("grandmother.png", PNG)), ("photo", ("x.png", PNG))]
    request = server.http.post(ROUTE, files=sent).headers["x-request-id"]
    until(lambda: request in server.log.getvalue())  # it is written once the answer is sent
    (line,) = [line for line in server.lines() if line["request"] == request]
    assert (line["route"], line["status"], line["images"]) == ("/v1/models/{name}:predict", 200, 2)
    assert line["bytes"] > 2 * len(PNG)
    assert line["ms"] > 0
    assert "grandmother" not in server.log.getvalue()
    assert TEXT not in server.log.getvalue()


def test_the_metrics_count(server: Live) -> None:
    def read() -> dict[str, float]:
        lines = server.http.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = read()
    for content in (PNG, PNG, b"bad"):
        server.http.post(ROUTE, content=content, headers={"Content-Type": "image/png"})
    counted = 'vitkit_requests_total{route="/v1/models/{name}:predict",status="422"}'
    until(lambda: read()[counted] == before.get(counted, 0) + 1)  # they are counted once the answer is sent
    after = read()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    route = 'route="/v1/models/{name}:predict"'
    assert grown(f'vitkit_requests_total{{{route},status="200"}}') == 2
    assert grown(f'vitkit_requests_total{{{route},status="422"}}') == 1
    assert grown('vitkit_images_total{model="flowers",outcome="answered"}') == 2
    assert grown('vitkit_images_total{model="flowers",outcome="unreadable_image"}') == 1
    assert grown('vitkit_group_images_sum{model="flowers"}') == 2
    assert grown(f"vitkit_request_seconds_count{{{route}}}") == 3
    assert after['vitkit_waiting_images{model="beach"}'] == 0
    assert after['vitkit_model_loads_total{model="beach",outcome="loaded"}'] == 1


def test_an_exported_artefact_is_served_as_predict_computes_it_and_not_explained(
    models: Path, photos: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnx", reason="needs onnx")
    check = tmp_path / "check"
    for name in CLASSES[:2]:
        (check / name).mkdir(parents=True)
        (check / name / "a.jpg").write_bytes((photos[1]).read_bytes())
    artefact = tmp_path / "graph"
    export(models / "flowers", "onnx", out=artefact, check=check, timed=False, force=True)
    expected = [found for _, found in predict(artefact, photos, top=2).predictions]
    with live([artefact, f"file={artefact / 'model.onnx'}"]) as server:
        for name in ("graph", "file"):
            sent = [("any", (path.name, path.read_bytes())) for path in photos]
            answer = server.http.post(f"/v1/models/{name}:predict?top=2", files=sent).json()
            for path, found, told in zip(photos, expected, answer["predictions"], strict=True):
                same(told, found, path.name)
            facts = server.http.get(f"/v1/models/{name}").json()
            assert (facts["explains"], facts["precision"]) == (False, "fp32")
            answer = server.http.post(f"/v1/models/{name}:explain", content=PNG, headers={"Content-Type": "image/png"})
            refused(answer, 501, "cannot_explain")
        assert server.http.get("/v1/models/graph").json()["version"] == facts["version"]
