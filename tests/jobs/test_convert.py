"""`vit convert`: every target, the same function read back, and refusal where a bare file would be another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import vitkit
from shared import shared_data
from vitkit.bundle import Bundle
from vitkit.config import UserError, read_json
from vitkit.data.pixels import Preprocess
from vitkit.jobs.convert import convert
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.write import TARGETS, largest_difference

EXPRESSIBLE = {
    "google": {"gelu": "tanh"},
    "big_vision": {"gelu": "tanh", "position_rule": "bilinear_align_corners", "prefix_positions": "none"},
    "timm": {"gelu": "erf", "position_rule": "bicubic_antialias"},
    "torchvision": {"gelu": "erf", "position_rule": "bicubic_align_corners"},
}
EXTENSION = {"google": ".npz", "big_vision": ".npz", "timm": ".safetensors", "torchvision": ".pth"}


def bundle_at(path: Path, **changes: object) -> Path:
    config = ViTConfig(
        **{
            **{
                "embed_dim": 64,
                "depth": 2,
                "num_heads": 1,
                "mlp_dim": 96,
                "patch_size": (4, 4),
                "image_size": (16, 16),
            },
            **{"num_classes": 3, "gelu": "erf"},
            **changes,
        }  # type: ignore[arg-type]
    )
    model = VisionTransformer(config)
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=rng)
    record = Preprocess(config.image_size, fit="squash", interpolation="bilinear")
    Bundle(model.eval(), record, classes=("ant", "bee", "cat"), source="a test", licence="CC0-1.0").save(path)
    return path


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("gelu", ["erf", "tanh"])
def test_a_folder_of_every_format_is_the_same_model_with_all_that_belongs_to_it(
    target: str, gelu: str, tmp_path: Path
) -> None:
    source = bundle_at(tmp_path / "own", gelu=gelu)
    result = convert(source, tmp_path / "there", to=target)
    original, back = vitkit.load(source), vitkit.load(tmp_path / "there")
    difference, scale = largest_difference(original.model, back.model)
    assert difference < 1e-5 < scale
    assert result.difference == difference
    assert back.classes == ("ant", "bee", "cat")
    assert back.preprocess_record == original.preprocess_record
    assert (back.source, back.licence) == ("a test", "CC0-1.0")
    image = Image.new("RGB", (20, 30), (200, 30, 60))
    assert back.predict(image)[0].classes == original.predict(image)[0].classes
    assert all(path.is_file() for path in result.files)


@pytest.mark.parametrize("target", EXPRESSIBLE)
def test_a_bare_file_is_written_where_the_format_says_it_all(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = dict(EXPRESSIBLE[target])
    source = bundle_at(tmp_path / "own", **changes)
    file = tmp_path / f"bare{EXTENSION[target]}"
    assert convert(source, file, to=target).files == (file,)
    assert "a bare file has no place for preprocessing, class names, the rule" in capsys.readouterr().err
    assert largest_difference(vitkit.load(source).model, vitkit.load(file).model)[0] < 1e-5


@pytest.mark.parametrize(
    ("target", "changes", "found"),
    [
        ("google", {"gelu": "erf"}, "gelu is tanh there and erf in this model"),
        ("google", {"gelu": "tanh", "norm_eps": 1e-12}, "norm_eps is 1e-06 there and 1e-12"),
        ("timm", {"gelu": "tanh"}, "gelu is erf there and tanh"),
        ("timm", {"gelu": "erf", "position_rule": "bicubic_antialias", "num_heads": 4}, "num_heads is 1 there and 4"),
        ("torchvision", {"gelu": "tanh"}, "gelu is erf there and tanh"),
    ],
)
def test_a_bare_file_that_would_be_another_function_is_refused_naming_what_would_be_lost(
    target: str, changes: dict[str, object], found: str, tmp_path: Path
) -> None:
    source = bundle_at(tmp_path / "own", **changes)
    file = tmp_path / f"bare{EXTENSION[target]}"
    with pytest.raises(UserError, match=found):
        convert(source, file, to=target)
    assert not file.exists()


def test_what_a_format_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    source = bundle_at(tmp_path / "own", registers=2)
    with pytest.raises(UserError, match="registers"):
        convert(source, tmp_path / "there", to="torchvision")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("target", ["google", "big_vision", "timm", "huggingface", "torchvision"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"position": "relative"}, "relative positions are vitkit's own; no other format has them"),
        ({"position_at": "layers"}, "positions at layers are vitkit's own"),
        ({"position": "learned2d", "position_at": "shared"}, "positions at shared are vitkit's own"),
    ],
)
def test_positions_of_our_own_are_refused_by_every_format(
    target: str, changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    source = bundle_at(tmp_path / "own", **changes)
    with pytest.raises(UserError, match=named):
        convert(source, tmp_path / "there", to=target)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("changes", [{"position": "relative"}, {"position_at": "layers"}, {"position_at": "shared"}])
def test_positions_of_our_own_go_through_a_bundle(changes: dict[str, object], tmp_path: Path) -> None:
    source = bundle_at(tmp_path / "own", **changes)
    convert(source, tmp_path / "again", to="vitkit")
    one, two = vitkit.load(source), vitkit.load(tmp_path / "again")
    assert one.config == two.config
    assert {name: getattr(one.config, name) for name in changes} == changes
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name]), name


def test_what_the_other_library_cannot_say_stays_in_our_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(bundle_at(tmp_path / "own", norm_eps=1e-3), tmp_path / "there", to="timm")
    assert "only vitkit.json says what this model is, timm itself cannot build it" in capsys.readouterr().err
    assert not (tmp_path / "there" / "config.json").exists()
    assert vitkit.load(tmp_path / "there").config.norm_eps == 1e-3
    bundle = vitkit.load(bundle_at(tmp_path / "second"), fit="pad")
    bundle.save(tmp_path / "padded")
    convert(tmp_path / "padded", tmp_path / "face", to="huggingface")
    assert "only vitkit.json says how images are prepared" in capsys.readouterr().err
    assert (tmp_path / "face" / "config.json").exists()
    assert not (tmp_path / "face" / "preprocessor_config.json").exists()
    assert vitkit.load(tmp_path / "face").preprocess_record.fit == "pad"


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path) -> None:
    source = bundle_at(tmp_path / "own")
    with pytest.raises(UserError, match=r"unknown format 'tim'\. Did you mean 'timm'"):
        convert(source, tmp_path / "x", to="tim")
    with pytest.raises(UserError, match=r"written as \.npz files"):
        convert(source, tmp_path / "x.safetensors", to="google")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("keep")
    for force in (False, True):
        with pytest.raises(UserError, match="holds something else than a model written by vitkit"):
            convert(source, tmp_path / "x", to="timm", force=force)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match=r"model\.bin: weights of layout timm are written as \.safetensors"):
        convert(source, tmp_path / "model.bin", to="timm")


def test_force_replaces_what_was_written_before_as_a_whole(tmp_path: Path) -> None:
    source = bundle_at(tmp_path / "own")
    convert(source, tmp_path / "x", to="huggingface")
    with pytest.raises(UserError, match="exists"):
        convert(source, tmp_path / "x", to="google")
    convert(source, tmp_path / "x", to="google", force=True)
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["model.npz", "vitkit.json"]


@pytest.mark.parametrize("target", ["google", "timm", "huggingface"])
def test_calibration_task_and_thresholds_go_along(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = vitkit.load(bundle_at(tmp_path / "own"))
    bundle.temperature, bundle.task, bundle.thresholds = 0.7, "multi-label", (0.2, 0.5, 0.9)
    bundle.save(tmp_path / "second")
    convert(tmp_path / "second", tmp_path / "there", to=target)
    assert "lack the temperature 0.700" in capsys.readouterr().err
    back = vitkit.load(tmp_path / "there")
    assert (back.temperature, back.task, back.thresholds) == (0.7, "multi-label", (0.2, 0.5, 0.9))
    image = Image.new("RGB", (20, 30), (200, 30, 60))
    assert back.predict(image)[0].probabilities == pytest.approx(bundle.predict(image)[0].probabilities, abs=1e-6)


def test_files_are_readable_as_any_other(tmp_path: Path) -> None:
    convert(bundle_at(tmp_path / "own"), tmp_path / "there", to="timm")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "there").iterdir()}
    assert len(modes) == 1


def test_the_folder_says_what_the_format_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(bundle_at(tmp_path / "own"), tmp_path / "there", to="google")
    assert "other programs that read model.npz alone compute another function: gelu" in capsys.readouterr().err
    told = read_json(tmp_path / "there" / "vitkit.json")
    assert (told["layout"], told["weights"], told["model"]["gelu"]) == ("google", "model.npz", "erf")


@pytest.mark.parametrize("target", TARGETS)
def test_the_shared_checkpoint_survives_every_format(target: str, tmp_path: Path) -> None:
    source = shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors")
    convert(source, tmp_path / "there", to=target)
    original, back = vitkit.load(source), vitkit.load(tmp_path / "there")
    assert largest_difference(original.model, back.model)[0] < 1e-5
    assert back.preprocess_record == original.preprocess_record
    assert back.classes == original.classes


def test_the_shared_checkpoint_is_no_bare_official_file(tmp_path: Path) -> None:
    source = shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors")
    with pytest.raises(UserError, match="gelu is tanh there and erf in this model"):
        convert(source, tmp_path / "bare.npz", to="google")
