"""Images of five channels from files to a model and back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vitkit
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.converters import timm
from vitkit.converters.engine import encode
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.adapt import adapt_channels


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Arrays of five channels whose last one alone tells the class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        for name, level in (("high", 5), ("low", 3)):
            folder = tmp_path / "five" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                values = rng.normal(100, 30, (16, 16, 5)).astype(np.float32)
                values[..., 4] = rng.normal(level, 1, (16, 16))
                np.save(folder / f"{number:03d}.npy", values)
    return tmp_path / "five"


def run(data: Path, out: Path, said: io.StringIO | None = None, **options: Any) -> Any:
    console = Console(said or io.StringIO(), said or io.StringIO())
    settings = {"batch_size": 16, "evaluations": 2}
    options.setdefault("model", "scratch")
    return vitkit.finetune(data, out=out, epochs=10, workers=0, settings=settings, console=console, **options)


def test_a_fifth_channel_is_learned_and_every_command_agrees(five: Path, tmp_path: Path) -> None:
    (five / "test/low/bad.npy").write_bytes((five / "test/low/000.npy").read_bytes()[:-8])
    np.save(five / "train/low/four.npy", np.zeros((16, 16, 4), np.float32))
    said = io.StringIO()
    made = run(five, tmp_path / "run", said, channels=5)
    assert "found 4 channels, expected 5" in said.getvalue()
    assert made.headline["value"] >= 0.95
    tuned = next(row for row in made.facts["comparison"] if row["model"] == "fine-tuned")
    assert tuned["value"] >= 0.95  # not the probe alone
    bundle = vitkit.load(made.bundle)
    assert bundle.config.in_channels == 5
    record = bundle.require_preprocess()
    assert record.mean[0] == pytest.approx(100, abs=1)
    assert record.mean[4] == pytest.approx(4, abs=0.1)
    assert record.std[0] == pytest.approx(30, abs=1)
    assert made.facts["arguments"]["channels"] == 5

    quiet = Console(io.StringIO(), io.StringIO())
    rows = vitkit.evaluate(made.bundle, five, console=quiet)
    assert {r.metric: r.value for r in rows} == {
        r["metric"]: r["value"] for r in made.facts["rows"] if r["dataset"].endswith("/test")
    }
    assert rows[0].n == 40
    done = vitkit.predict(made.bundle, five / "test", console=quiet)
    assert [Path(name).name for name, _ in done.skipped] == ["bad.npy"]
    written = (tmp_path / "run/predictions.csv").read_text(encoding="utf-8").splitlines()
    for path, answer in done.predictions:
        name = Path(path).relative_to(five).as_posix()
        [line] = [line for line in written if f",{name}," in line]
        assert line.split(",")[-2:] == [answer.classes[0], repr(answer.probabilities[0])]
        assert bundle.predict(np.load(path), top=1) == [answer]
    assert bundle.preprocess(np.load(path)).shape == (5, 16, 16)
    with pytest.raises(UserError, match="found 3 channels, expected 5"):
        bundle.preprocess(np.zeros((16, 16, 3), np.uint8))


def test_rgb_weights_start_a_model_of_other_channels(five: Path, photos: Path, tmp_path: Path) -> None:
    config = ViTConfig(
        embed_dim=64,
        depth=1,
        num_heads=1,
        mlp_dim=64,
        patch_size=(4, 4),
        image_size=(16, 16),
        num_classes=7,
        gelu="erf",
    )
    model = VisionTransformer(config)
    model.init_weights(1)
    save_file(encode(model.state_dict(), timm.rules(config)), tmp_path / "rgb.safetensors")
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    start = {"model": tmp_path / "rgb.safetensors", "overrides": half}
    said = io.StringIO()
    made = run(five, tmp_path / "run", said, channels=5, train="head", **start)
    assert "first layer adapted from 3 to 5 channels" in said.getvalue()
    bundle = vitkit.load(made.bundle)
    assert torch.equal(bundle.model.patch_embed.weight, adapt_channels(model, 5).patch_embed.weight)
    with pytest.raises(UserError, match=r"files cannot be used, the first: .* --channels"):
        run(five, tmp_path / "other", **start)
    with pytest.raises(UserError, match="Say --channels 5"):  # a model of five channels gets RGB images
        run(photos, tmp_path / "third", model=made.bundle)


def test_the_first_layer_repeats_over_channels_and_keeps_its_sum() -> None:
    config = ViTConfig(
        embed_dim=8, depth=1, num_heads=1, mlp_dim=8, patch_size=(4, 4), image_size=(8, 8), num_classes=2
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    red, green, blue = (model.patch_embed.weight[:, c] for c in range(3))
    five = adapt_channels(model, 5).patch_embed.weight
    for c, expected in enumerate((red, green, blue, red, green)):
        torch.testing.assert_close(five[:, c], expected * 3 / 5)
    gray = torch.rand(2, 1, 8, 8)
    with torch.no_grad():  # six times or once the same gray is what three times was
        expected = model(gray.expand(2, 3, 8, 8))
        for channels in (1, 6):
            torch.testing.assert_close(adapt_channels(model, channels)(gray.expand(2, channels, 8, 8)), expected)
    assert adapt_channels(model, 3) is model
    with pytest.raises(UserError, match="only a model of RGB images can be adapted"):
        adapt_channels(adapt_channels(model, 5), 4)


def test_a_record_of_other_channels_than_the_model_is_refused(five: Path, tmp_path: Path) -> None:
    made = run(five, tmp_path / "run", channels=5, train="all")
    bundle = vitkit.load(made.bundle, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(UserError, match="mean and std of 3 channels, the model takes 5"):
        bundle.require_preprocess()
