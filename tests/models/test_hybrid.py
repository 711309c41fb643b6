"""The hybrids' ResNet against the reference: golden vectors, sizes, padding, initialisation (VIT_SPEC 1.4, 1.5, 2.1, 11)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from golden import golden_config, golden_image, golden_state
from vitkit.config import UserError
from vitkit.converters import google
from vitkit.converters.engine import decode
from vitkit.models import hybrid
from vitkit.models.hybrid import ResNetStem, StdConv, Unit, stem_grid
from vitkit.models.vit import VisionTransformer, ViTConfig

# official name -> ours, parameters at 224 with 1000 classes, tensors without pre_logits, tokens at 224 and 384
# (VIT_SPEC 1.1 and 2.1). Tensors: 16 a block + 8, 3 of the root, 9 a unit and 3 more a stage.
OFFICIAL = {
    "R+ViT-Ti_16": ("R+Ti/16", 6_337_704, 203, (50, 145)),
    "R26+ViT-S_32": ("R26+S/32", 36_431_912, 287, (50, 145)),
    "R26+ViT-B_32": ("R26+B/32", 101_383_976, 287, (50, 145)),
    "R50+ViT-B_16": ("R50+B/16", 98_659_112, 356, (197, 577)),
    "R50+ViT-L_32": ("R50+L/32", 328_994_856, 16 * 24 + 8 + 3 + 9 * 16 + 3 * 4, (50, 145)),
}
# name -> changes, tensors, image size, logits
GOLDEN = {
    "G4": (
        {"stem": (1, 2), "patch_size": (1, 1)},
        (76, 848_453),
        [[0.351084, 0.440848, 0.381762, 0.384489, 0.294199], [0.556445, 0.544438, 0.034437, 0.294993, 0.202151]],
    ),
    "G5": (
        {"stem": (), "patch_size": (8, 8)},
        (43, 339_525),
        [[-0.146234, -0.108046, -0.013048, -0.025093, 0.403261], [-0.064264, 0.429431, -0.086701, -0.269592, 0.129163]],
    ),
    "G6": (  # 50 divides into 25, 13 and 7: the odd pixel of every padding counts
        {"stem": (1, 2), "patch_size": (1, 1), "image_size": (50, 50)},
        (76, 847_493),
        [[0.109446, 0.521340, 0.174947, 0.225493, 0.135624], [0.376556, 0.760440, 0.222399, 0.221754, 0.145600]],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name: str) -> None:
    changes, size, expected = GOLDEN[name]
    config = golden_config(**changes)
    state = golden_state(config)
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == size
    model = VisionTransformer(config).eval()
    model.load_state_dict(decode(state, google.rules(config), name))
    with torch.no_grad():
        logits = model(golden_image(2, config.image_size[0])).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_symmetric_padding_would_fail_the_golden_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epsilons hardly show in them (1e-5); the test of one unit below tells those apart."""
    changes, _, expected = GOLDEN["G6"]
    config = golden_config(**changes)
    model = VisionTransformer(config).eval()
    model.load_state_dict(decode(golden_state(config), google.rules(config), "x"))
    monkeypatch.setattr(hybrid, "_same", lambda x, kernel, stride, value=0.0: F.pad(x, [kernel // 2] * 4, value=value))
    with torch.no_grad():
        logits = model(golden_image(2, 50)).numpy()
    assert np.abs(logits - expected).max() > 1e-2


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_tensors_and_tokens_of_every_official_hybrid(name: str) -> None:
    ours, parameters, tensors, tokens = OFFICIAL[name]
    config = ViTConfig.named(ours)
    with torch.device("meta"):
        model = VisionTransformer(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len({theirs for rule in google.rules(config) for theirs in rule.theirs}) == tensors
    grids = [config.grid, ViTConfig.named(ours, image_size=(384, 384)).grid]
    assert tuple(1 + h * w for h, w in grids) == tokens
    assert model.pos_embed.shape == (1, tokens[0], config.embed_dim)


def test_the_named_hybrids_are_those_of_the_official_code() -> None:
    tiny = ViTConfig.named("R+Ti/16")  # /16 by its name, 4 x 8 in fact (VIT_SPEC 0.3)
    assert (tiny.stem, tiny.patch_size, tiny.grid) == ((), (8, 8), (7, 7))
    assert ViTConfig.named("R50+L/16").stem == (3, 4, 9)  # of the paper, with the larger transformer
    with pytest.raises(UserError, match=r"known before size B: R\+B/16, R26\+B/32, R50\+B/16, R50\+B/32"):
        ViTConfig.named("R101+B/32")
    for name in ("R50+/16", "R50+XL/16", "+B/x"):
        with pytest.raises(UserError, match="one of Ti, S, B, L, H"):
            ViTConfig.named(name)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [
        *((224, 7, 2, 2, 3), (112, 3, 2, 0, 1), (56, 3, 2, 0, 1), (56, 3, 1, 1, 1), (56, 1, 2, 0, 0)),  # at 224
        *((50, 7, 2, 2, 3), (51, 7, 2, 3, 3), (25, 3, 2, 1, 1), (13, 3, 2, 1, 1)),
    ],
)
def test_same_padding_puts_the_odd_pixel_last(size: int, kernel: int, stride: int, before: int, after: int) -> None:
    """VIT_SPEC 1.4; seen through a convolution, which must equal one of images that were padded by hand."""
    conv = StdConv(2, 4, kernel, stride, "official")
    images = torch.randn(1, 2, size, size, generator=torch.Generator().manual_seed(0))
    weight = conv.weight.double()
    mean, std = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True, correction=0)
    padded = F.pad(images.double(), (before, after, before, after))
    expected = F.conv2d(padded, (weight - mean) / (std + 1e-5), stride=stride)
    assert expected.shape[-1] == math.ceil(size / stride)
    torch.testing.assert_close(conv(images).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("numerics", ["official", "timm"])
def test_a_unit_against_a_plain_computation_in_double(numerics: str) -> None:
    """Both epsilons, their places, groups, and the order of convolution, norm and relu."""
    group_eps, kernel_eps = {"official": (1e-6, 1e-5), "timm": (1e-5, 1e-8)}[numerics]
    rng = torch.Generator().manual_seed(0)
    unit = Unit(64, 32, 2, numerics)
    for parameter in unit.parameters():  # kernels of a spread like the epsilons', or their place would not show
        parameter.data.normal_(std=1e-3 if parameter.ndim == 4 else 1.0, generator=rng)
    x = torch.randn(2, 64, 7, 10, generator=rng)

    def conv(x: torch.Tensor, weight: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = weight.double()
        mean, variance = weight.mean((1, 2, 3), keepdim=True), weight.var((1, 2, 3), keepdim=True, correction=0)
        scale = variance.sqrt() + kernel_eps if numerics == "official" else (variance + kernel_eps).sqrt()
        pads = []
        for n in (x.shape[3], x.shape[2]):
            total = max((math.ceil(n / stride) - 1) * stride + weight.shape[2] - n, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), (weight - mean) / scale, stride=stride)

    def norm(x: torch.Tensor, layer: torch.nn.GroupNorm) -> torch.Tensor:
        groups = x.unflatten(1, (32, -1))
        mean, variance = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, correction=0)
        whitened = ((groups - mean) / (variance + group_eps).sqrt()).flatten(1, 2)
        return whitened * layer.weight.double()[:, None, None] + layer.bias.double()[:, None, None]

    y = norm(conv(x.double(), unit.conv1.weight), unit.gn1).relu()
    y = norm(conv(y, unit.conv2.weight, 2), unit.gn2).relu()
    y = norm(conv(y, unit.conv3.weight), unit.gn3)
    shortcut = norm(conv(x.double(), unit.conv_proj.weight, 2), unit.gn_proj)
    assert y.shape == (2, 128, 4, 5)
    torch.testing.assert_close(unit(x).double(), (shortcut + y).relu(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("units", "stride"), [((), 4), ((1,), 4), ((1, 2), 8), ((3, 4, 9), 16), ((2, 2, 2, 2), 32)])
def test_grids_of_odd_and_rectangular_images_round_up(units: tuple[int, ...], stride: int) -> None:
    for size in ((64, 64), (50, 97), (33, 64)):
        assert stem_grid(size, units) == (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
    if len(units) < 3:
        assert ResNetStem(3, units, "official")(torch.zeros(1, 3, 50, 97)).shape[2:] == stem_grid((50, 97), units)


def test_a_rectangular_hybrid_runs_and_its_features_have_the_grid() -> None:
    config = golden_config(stem=(1, 1), patch_size=(1, 2), image_size=(50, 97))
    model = VisionTransformer(config).eval()
    model.init_weights(0)
    features = model.forward_features(torch.zeros(2, 3, 50, 97))
    assert features.patches.shape == (2, 7, 6, 64)


def test_initialisation_of_the_stem_is_the_reference_s() -> None:
    model = VisionTransformer(golden_config(stem=(2, 1), patch_size=(1, 1)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights(0)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
    stem = model.stem
    assert stem is not None
    for module in stem.modules():
        if isinstance(module, StdConv):  # lecun_normal: variance 1 / fan_in after the cut at two sigma
            std = math.sqrt(1 / module.weight[0].numel())
            assert module.weight.std().item() == pytest.approx(std, rel=0.06)
            assert module.weight.abs().max().item() <= 2 * std / 0.87962566103423978
        if isinstance(module, torch.nn.GroupNorm):
            assert not module.bias.any()
    unit = stem.stages[0][1]
    assert (unit.gn1.weight == 1).all()
    assert not unit.gn3.weight.any()
    features = torch.rand(1, 256, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unit(features), features)  # a new unit without projection passes on what it is given
    patches = model.patch_embed.weight
    assert patches.std().item() == pytest.approx(math.sqrt(1 / patches[0].numel()), rel=0.05)


@pytest.mark.parametrize("stem", [(1, 2, 3, 4, 5), (0,), (1, 2.5), 3, "12"])
def test_a_wrong_stem_says_what_is_wrong(stem: object) -> None:
    with pytest.raises(UserError, match="stem must be up to four positive numbers of units per stage"):
        golden_config(stem=stem)


def test_an_image_smaller_than_a_patch_on_the_stem_is_refused() -> None:
    with pytest.raises(UserError, match="smaller than one patch"):
        golden_config(stem=(), patch_size=(8, 8), image_size=(28, 64))
