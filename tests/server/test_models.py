"""Models by name, and models that are replaced while they are served."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from live import live, until
from pictures import encoded
from small_models import made
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.jobs.predict import predict
from vitkit.server.models import name_models, seals_of, version_of

PNG = encoded(Image.new("RGB", (20, 20), (9, 90, 200)))
KIND = {"Content-Type": "image/png"}


def test_names_are_those_of_paths_or_as_said(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "flowers" / "model"
    run.mkdir(parents=True)
    assert name_models([str(run), "b=x/y", "z/a model.safetensors", "deit_tiny_patch16_224"]) == {
        "flowers": str(run),
        "b": "x/y",
        "a-model": "z/a model.safetensors",
        "deit_tiny_patch16_224": "deit_tiny_patch16_224",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "name at least one model"),
        (["a/m", "b/m"], "two models are called 'm': a/m and b/m. Say NAME=PATH"),
        (["//"], "gives no name for an address; say NAME=PATH"),
    ],
)
def test_names_that_cannot_be(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        name_models(given)


def changed(folder: Path, seed: int) -> None:
    """Save the bundle with other weights."""
    bundle = Bundle.read(folder)
    assert bundle.model.head is not None
    bundle.model.head.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    bundle.save(folder)


def test_a_replaced_bundle_is_opened_and_a_broken_one_is_not(tmp_path: Path) -> None:
    model, image = made(tmp_path / "m", ("a", "b", "c")), tmp_path / "image.png"
    image.write_bytes(PNG)

    def expected() -> float:
        return predict(model, [image]).predictions[0][1].probability

    with live([model]) as server:

        def told() -> tuple[str, float]:
            answer = server.http.post("/v1/models/m:predict", content=PNG, headers=KIND).json()
            return answer["version"], answer["predictions"][0]["probability"]

        registry, first = server.state.registry, told()
        assert first == (version_of(str(model)), expected())
        assert registry.refresh() == []
        changed(model, 5)
        assert registry.refresh() == []  # it may be half written
        assert told() == first
        assert registry.refresh() == ["m"]
        second = told()
        assert second == (version_of(str(model)), expected())
        assert second != first

        whole = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        assert [registry.refresh() for _ in range(4)] == [[]] * 4
        assert told() == second
        (refused,) = server.lines("model_refused")
        assert (refused["model"], refused["serving"]) == ("m", second[0])
        assert "model.safetensors" in refused["reason"]
        assert 'outcome="refused"} 1.0' in server.http.get("/metrics").text

        shutil.rmtree(model)  # as a folder that is being replaced
        assert registry.refresh(force=True) == []
        assert told() == second
        made(model, ("a", "b"))
        changed(model, 6)
        assert registry.refresh(force=True) == ["m"]
        assert told() == (version_of(str(model)), expected())
        assert server.http.get("/v1/models/m").json()["classes"] == ["a", "b"]


def test_answers_go_on_while_a_bundle_is_replaced(tmp_path: Path) -> None:
    model = made(tmp_path / "m", ("a", "b", "c"))
    with live([model], reload=True) as server:
        statuses, versions, stop = list[int](), set[str](), threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answer = server.http.post("/v1/models/m:predict", content=PNG, headers=KIND)
                statuses.append(answer.status_code)
                versions.add(answer.json()["version"])

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            until(lambda: len(versions) == 1)
            changed(model, 7)
            until(lambda: len(versions) == 2, 20)
        finally:
            stop.set()
            thread.join(10)
        assert set(statuses) == {200}
        assert version_of(str(model)) in versions


def test_a_file_that_is_written_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(tmp_path / "m", ("a", "b"))
    with live([model]) as server:
        registry = server.state.registry
        changed(model, 8)
        opening: Any = registry._open

        def slow(name: str) -> Any:
            found = opening(name)
            time.sleep(0.05)
            changed(model, 9)
            return found

        monkeypatch.setattr(registry, "_open", slow)
        assert registry.refresh(force=True) == []
        monkeypatch.setattr(registry, "_open", opening)
        assert registry.refresh() == ["m"]
        assert registry.get("m").seals == seals_of(str(model))


def test_a_model_that_is_not_there_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model"), live([tmp_path / "nothing"]):
        pass
