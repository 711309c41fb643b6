"""Keys, pages of other origins, and the log."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest

from live import live
from small_models import made
from vitkit.config import UserError
from vitkit.server.keys import read_keys
from vitkit.server.logs import Log


def test_only_clients_with_a_key_are_answered(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the kitchen\nfirst-key-1\n\n  second-key-2  \n")
    with live([made(tmp_path / "m", ("a", "b"))], keys=read_keys(file), origins=("https://example.org",)) as server:
        for route in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert server.http.get(route).status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer first-key"},
            {"Authorization": "Basic first-key-1"},
            {"X-API-Key": ""},
            {"X-API-Key": "first-key-1é".encode().decode("latin-1")},
            {"Authorization": "Bearer # of the kitchen"},
        ):
            for route in ("/v1/models", "/metrics", "/nothing", "/v1/models/m"):
                answer = server.http.get(
                    route, headers={name: value.encode("latin-1") for name, value in headers.items()}
                )
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_required")
                assert answer.headers["www-authenticate"] == "Bearer"
        for headers in (
            {"Authorization": "Bearer first-key-1"},
            {"X-API-Key": "second-key-2"},
            {"Authorization": "bearer second-key-2"},
        ):
            assert server.http.get("/v1/models", headers=headers).status_code == 200
        schemes = server.http.get("/openapi.json").json()
        assert schemes["paths"]["/v1/models"]["get"]["security"] == [{"bearer": []}, {"header": []}]
        assert "first-key" not in server.log.getvalue()

        asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "x-api-key"}  # fmt: skip
        answer = server.http.options("/v1/models/m:predict", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        refused = server.http.get("/v1/models", headers={"Origin": "https://example.org"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://example.org")
        other = server.http.options("/v1/models/m:predict", headers={**asked, "Origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("# nothing\n\n", "holds no key"),
        ("long-enough\nshort\n", "key 2 needs 8 or more"),
        ("a key with spaces\n", "key 1 needs"),
    ],
)
def test_key_files_that_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_keys(file)


def test_the_log_is_lines_of_json_or_for_people() -> None:
    for kind in ("json", "text"):
        file = StringIO()
        Log(kind, file).write("request", {"status": 200, "route": "/a\nb"})
        (line,) = file.getvalue().splitlines()
        if kind == "json":
            found = json.loads(line)
            assert found["time"].endswith("Z")
            assert (found["event"], found["status"], found["route"]) == ("request", 200, "/a\nb")
        else:
            assert line.endswith('request status=200 route="/a\\nb"')
    with pytest.raises(UserError, match=r"'jason'; known: text, json. Did you mean 'json'"):
        Log("jason")
    file = StringIO()
    file.close()
    Log("json", file).write("request", {})  # nobody reads it
