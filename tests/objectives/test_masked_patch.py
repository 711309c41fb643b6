"""Masked patch prediction: the colours, what is corrupted, and that the model sees it."""

from __future__ import annotations

import pytest
import torch

from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.masked_patch import MaskedPatches, MaskedPatchModel, mean_colours

HALF = (0.5, 0.5, 0.5)
TINY = ViTConfig(embed_dim=32, depth=2, num_heads=2, mlp_dim=64, patch_size=(4, 4), image_size=(16, 24), num_classes=0)


def backbone(**changes: object) -> VisionTransformer:
    model = VisionTransformer(ViTConfig(**{**vars(TINY), **changes}))  # type: ignore[arg-type]
    model.init_weights(0)
    return model.eval()


def bytes_as_input(values: torch.Tensor) -> torch.Tensor:
    return (values / 255 - 0.5) / 0.5


def test_colours_are_floors_of_each_channels_mean_byte() -> None:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 17, 26), generator=rng).float()  # one row and two columns fill no patch
    pixels[0, :, :4, :4] = torch.tensor([32.0, 255.0, 0.0])[:, None, None]  # on the edge of a level, and both ends
    half = torch.tensor(HALF)
    colours = mean_colours(bytes_as_input(pixels), (4, 4), half, half)
    assert colours.shape == (3, 4 * 6)
    for image in range(3):
        for row in range(4):
            for column in range(6):
                patch = pixels[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].double()
                r, g, b = (int(patch[c].mean() // 32) for c in range(3))
                assert colours[image, 6 * row + column] == 64 * r + 8 * g + b
    assert colours[0, 0] == 64 * 1 + 8 * 7 + 0


def test_half_of_the_patches_are_chosen_and_treated_as_the_paper_says() -> None:
    objective = MaskedPatches(0, HALF, HALF)
    places = torch.arange(4_000)
    chosen, corruption = objective.draw(Batch(torch.zeros(4_000, 1), places, places), 24)
    assert (chosen.sum(1) == 12).all()
    assert (corruption[~chosen] == -2).all()
    treated = corruption[chosen]
    assert (treated == -1).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (treated >= 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (treated == -2).float().mean().item() == pytest.approx(0.1, abs=0.01)
    others = treated[treated >= 0]
    assert sorted(others.unique().tolist()) == list(range(24))
    assert chosen.float().mean(0).sub(0.5).abs().max() < 0.05  # every place of the grid alike
    again, _ = objective.draw(Batch(torch.zeros(9, 1), places[:9], places[100:109]), 24)
    assert torch.equal(again, chosen[100:109])
    different, _ = MaskedPatches(1, HALF, HALF).draw(Batch(torch.zeros(9, 1), places[:9], places[100:109]), 24)
    assert not torch.equal(different, chosen[100:109])


@torch.no_grad()
def test_the_blocks_read_the_mask_another_patch_or_the_patch_itself() -> None:
    model = MaskedPatchModel(backbone(position="none", cls_token=False, pool="mean"))
    torch.nn.init.normal_(model.colours.weight)
    torch.nn.init.normal_(model.mask)
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    plain = model(images, torch.full((2, 24), -2))
    assert torch.allclose(plain, model.colours(model.backbone.forward_features(images).patches.flatten(1, 2)))
    moved = images.clone()  # patch 5 replaced by a copy of patch 11, by hand
    moved[:, :, 0:4, 20:24] = images[:, :, 4:8, 20:24]
    corruption = torch.full((2, 24), -2)
    corruption[:, 5] = 11
    assert torch.allclose(model(images, corruption), model(moved, torch.full((2, 24), -2)), atol=1e-5)
    corruption[:, 5] = -1
    masked = model(images, corruption)
    other = images.clone()
    other[:, :, 0:4, 20:24] = 0.3  # what lies under a mask is not seen
    assert torch.allclose(masked, model(other, corruption), atol=1e-6)
    assert not torch.allclose(masked, plain, atol=1e-3)


def test_learning_lowers_the_loss_and_reaches_every_part() -> None:
    torch.manual_seed(0)
    objective = MaskedPatches(0, HALF, HALF)
    module = objective.build(backbone())
    shades = torch.randint(0, 256, (64, 3, 1, 1)).float().expand(-1, -1, 16, 24)  # every image of one colour
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        places = torch.arange(64) + 64 * step
        loss = objective.loss(module, Batch(bytes_as_input(shades), torch.zeros(64), places))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(512.0).log().item(), abs=1e-4)  # a zero head: all colours alike
    assert losses[-1] < 0.6 * losses[0]
    assert module.mask.grad is not None
    assert module.mask.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"in_channels": 1}, "of RGB patches"), ({"norm_after_pool": True}, "norm_after_pool=False")],
)
def test_what_has_no_patches_of_pixels_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskedPatches(0, HALF, HALF).build(backbone(**changes))


def test_examples_need_places() -> None:
    objective = MaskedPatches(0, HALF, HALF)
    with pytest.raises(UserError, match="have places"):
        objective.loss(objective.build(backbone()), Batch(torch.zeros(1, 3, 16, 24), torch.zeros(1)))
