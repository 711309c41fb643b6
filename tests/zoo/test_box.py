"""The backbone that ships: found by name, light until used, on its own terms, at any size."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from conftest import write_images
from shared import ROOT, shared_data
from vitkit.bundle import Bundle
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.data.sources import read_source
from vitkit.recipes.book import find_recipe
from vitkit.zoo import box
from vitkit.zoo.load import load_model

SIZES = (16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 224, (64, 128), (24, 32), (224, 160))


def test_it_loads_by_name_and_is_small() -> None:
    bundle = load_model("box")
    assert bundle.classes is not None
    assert len(bundle.classes) == 200
    weights = box.PLACE / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    header = json.loads(weights.read_bytes()[8 : 8 + int.from_bytes(weights.read_bytes()[:8], "little")])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"BF16"}
    assert all(parameter.dtype == torch.float32 for parameter in bundle.model.parameters())


def test_its_files_say_how_it_was_made() -> None:
    config, training = (json.loads((box.PLACE / name).read_text()) for name in ("config.json", "training.json"))
    assert re.fullmatch("[0-9a-f]{40}", training["commit"])
    assert training["commit"][:12] in config["weights"]["source"]
    assert "non-commercial" in config["weights"]["licence"]
    assert config["weights"]["sha256"] == hashlib.sha256((box.PLACE / "model.safetensors").read_bytes()).hexdigest()
    recipe = find_recipe("box")
    assert [(run["recipe"], run["title"]) for run in training["runs"]] == [
        (name, find_recipe(name).title) for name in ("box_16", "box")
    ]
    assert training["seed"] == recipe.seed
    assert len(training["first_losses"]) == 200
    trained = {**config["model"], "image_size": list(recipe.model.image_size), "num_classes": 200, "drop_path": 0.0}
    made = json.loads(json.dumps({**vars(recipe.model), "num_classes": 200, "drop_path": 0.0}))
    assert trained == made, "the recipe is that of another model"
    card = box.CARD.read_text()
    assert training["commit"][:12] in card
    assert config["weights"]["licence"] in card


def test_the_commit_it_names_has_the_source_that_trained_it(tmp_path: Path) -> None:
    training = json.loads((box.PLACE / "training.json").read_text())
    archive = subprocess.run(["git", "archive", training["commit"], "src"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"the commit is not in this checkout: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive.stdout, check=True)
    code = "from vitkit.report import code_fingerprint; print(code_fingerprint())"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path / "src")}, capture_output=True, text=True
    )
    assert found.stdout.strip() == training["code"], found.stderr


def test_a_path_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = load_model("box")
    bundle.source = "mine"
    bundle.save("box")
    assert load_model("box").source == "mine"
    (tmp_path / "box" / "config.json").unlink()
    with pytest.raises(UserError):
        load_model("box")


def test_its_terms_are_said_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    box._say_terms.cache_clear()
    load_model("box")
    load_model("box", image_size=64)
    said = capsys.readouterr()
    assert said.err.count("non-commercial") == 1
    assert said.out == ""


def test_a_place_in_it_that_is_no_place_is_one_message() -> None:
    with pytest.raises(UserError, match="source_image_size is for bare checkpoints; box says itself"):
        load_model("box", source_image_size=24)
    with pytest.raises(UserError, match="image_size"):
        load_model("box", image_size="large")
    with pytest.raises(UserError, match="unknown override 'image_sise'"):
        load_model("box", image_sise=64)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_cut_into_few_patches(size: int | tuple[int, int]) -> None:
    bundle = load_model("box", image_size=size)
    h, w = (size, size) if isinstance(size, int) else size
    assert bundle.config.image_size == (h, w)
    assert bundle.require_preprocess().image_size == (h, w)
    assert max(bundle.config.grid) <= box.WANTED + 1
    assert max(bundle.config.grid) >= box.FEWEST
    rest = [n - p * g for n, p, g in zip((h, w), bundle.config.patch_size, bundle.config.grid, strict=True)]
    assert max(rest) < bundle.config.patch_size[0]


def test_a_patch_size_that_is_said_is_taken() -> None:
    assert load_model("box", image_size=64, patch_size=8).config.patch_size == (8, 8)
    assert load_model("box", patch_size=8).config.grid == (4, 4)


def test_it_names_gray_and_coloured_pictures_alike(tmp_path: Path) -> None:
    write_images(tmp_path, (120, 120, 120), 1, 0, size=64)
    image = Image.open(tmp_path / "000.png").convert("L")
    bundle = vitkit.load("box")
    gray, rgb = (bundle.predict(each)[0] for each in (image, image.convert("RGB")))
    assert gray == rgb
    one = load_model("box", in_channels=1, mean=(0.5,), std=(0.5,))
    assert one.config.in_channels == 1


def test_tiny_imagenet_is_named_about_as_well_at_every_size() -> None:
    """The validation images are not what it was trained on; the bounds are half of what it reaches at its own size."""
    val = read_source(shared_data("tiny_imagenet_32")).splits["val"][::20]
    labels = np.array([sample.label for sample in val])
    pictures = [Image.open(sample.source if isinstance(sample.source, Path) else _opened(sample)) for sample in val]

    def top1(**size: object) -> float:
        bundle: Bundle = load_model("box", **size)  # type: ignore[arg-type]
        with torch.inference_mode():
            logits = bundle.model(torch.stack([bundle.preprocess(picture) for picture in pictures]))
        return float((logits.argmax(1).numpy() == labels).mean())

    own = top1()
    assert own > 0.2
    for size in (16, 24, 48, 64, 128, 224):
        assert top1(image_size=size) > own / 2, size


def _opened(sample: object) -> object:
    import io

    from vitkit.data.containers import read_bytes

    return io.BytesIO(read_bytes(sample.source))  # type: ignore[attr-defined]


def test_nothing_of_it_is_read_until_it_is_used(tmp_path: Path) -> None:
    code = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import vitkit, vitkit.cli.main
try:
    vitkit.cli.main.main(["--help"])
except SystemExit:
    pass
assert "torch" not in sys.modules
assert not [path for path in opened if "zoo/box/" in path], opened
import vitkit.jobs.finetune, vitkit.jobs.predict, vitkit.zoo.load
assert not [path for path in opened if path.endswith((".safetensors", "box/config.json", "training.json", "CARD.md"))]
vitkit.load("box")
assert [path for path in opened if path.endswith("box/model.safetensors")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_package_takes_its_files_along() -> None:
    """Those of the build are what git has under src/vitkit, but for what .gitignore leaves out."""
    listed = subprocess.run(
        ["git", "ls-files", "src/vitkit/zoo/box"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = {Path(line).name for line in listed.stdout.splitlines()}
    assert names == {"__init__.py", "model.safetensors", "config.json", "training.json", "CARD.md"}


def test_commands_take_it(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(photos / "test" / "red" / "000.png")
    assert main(["predict", "box", image]) == 0
    assert main(["models", "show", "box"]) == 0
    assert "not good for" in capsys.readouterr().out
    assert main(["models", "box", "--json"]) == 0
    assert main(["models", "show", "box", "--json"]) == 0
    assert main(["verify", "box"]) == 0
    assert main(["evaluate", "box", str(photos), "--protocol", "knn"]) == 0
    assert main(["convert", "box", str(tmp_path / "timm"), "--to", "timm"]) == 0
