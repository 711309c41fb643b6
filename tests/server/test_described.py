"""The description of the server, and requests that are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from live import Live, live
from small_models import made

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402

PLAIN = "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/{name}"
WITH_IMAGES = "/v1/models/{name}:predict", "/v1/models/{name}:explain"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live([made(tmp_path_factory.mktemp("models") / "m", ("a", "b"))]) as found:
        yield found


def test_everything_is_described(server: Live) -> None:
    found = server.http.get("/openapi.json").json()
    assert {path: set(methods) for path, methods in found["paths"].items()} == {
        **{path: {"get"} for path in PLAIN},
        **{path: {"post"} for path in WITH_IMAGES},
    }
    predict = found["paths"]["/v1/models/{name}:predict"]["post"]
    assert set(predict["responses"]) == {
        *("200", "400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504")
    }
    assert set(predict["requestBody"]["content"]) >= {"multipart/form-data", "application/json", "image/*"}


@pytest.mark.parametrize("path", [*PLAIN, *WITH_IMAGES])
@pytest.mark.parametrize("known", [False, True])
def test_requests_made_from_the_description_are_answered_as_described(server: Live, path: str, known: bool) -> None:
    """``known``: they are for a model that is there, which then need not be able to read what is called an image."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operation = schema[path]["GET" if path in PLAIN else "POST"]
    left_out = [schemathesis.checks.positive_data_acceptance] if known and path in WITH_IMAGES else []
    count = 0

    @given(case=operation.as_strategy())
    @settings(
        max_examples=15, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate), database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Any) -> None:
        nonlocal count
        if known and "name" in case.path_parameters:
            case.path_parameters["name"] = "m"
        response = case.call()
        case.validate_response(response, excluded_checks=left_out)
        count += 1

    ask()
    assert count >= 1
    assert not server.lines("bug")
