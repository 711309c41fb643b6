"""The description of the server, and requests that are made from it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from live import Live, live
from pictures import encoded
from small_models import made

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402

PNG = encoded(Image.new("RGB", (5, 5)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live([made(tmp_path_factory.mktemp("models") / "m", ("a", "b"))]) as found:
        yield found


def test_everything_is_described(server: Live) -> None:
    found = server.http.get("/openapi.json").json()
    assert {(method, path) for path, each in found["paths"].items() for method in each} == {
        ("get", "/healthz"), ("get", "/readyz"), ("get", "/metrics"), ("get", "/v1/models"), ("get", "/v1/models/{name}"),
        ("post", "/v1/models/{name}:predict"), ("post", "/v1/models/{name}:explain"),
    }  # fmt: skip
    predict = found["paths"]["/v1/models/{name}:predict"]["post"]
    assert set(predict["responses"]) == set(["200", "400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504"])
    assert set(predict["requestBody"]["content"]) >= {"multipart/form-data", "application/json", "image/*"}


@pytest.mark.parametrize("known", [True, False])
def test_requests_made_from_the_description_are_answered_as_described(server: Live, known: bool) -> None:
    """``known``: of the model that is served."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    checks = [check for check in schemathesis.checks.load_all_checks() or []] if False else None  # noqa: C416
    count = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=12, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate), database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: Any) -> None:
            nonlocal count
            if known and "name" in case.path_parameters:
                case.path_parameters["name"] = "m"
            response = case.call()
            excluded = [schemathesis.checks.positive_data_acceptance] if False else []
            case.validate_response(response, excluded_checks=excluded)
            count += 1

        ask()
    assert checks is None
    assert count > 50
    assert server.http.get("/healthz").status_code == 200
    assert base64.b64encode(PNG)
