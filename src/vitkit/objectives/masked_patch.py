"""The paper's self-supervision: predict the mean colour of corrupted patches (arXiv 2010.11929, appendix B.1.2; VIT_SPEC 7).

Half of the patch embeddings are corrupted: of these 80 % become a learned [mask] embedding, 10 % another patch's embedding
of the same image, 10 % stay. From each corrupted patch's output one of 512 colours is predicted: every channel's mean over
the patch, in 8 levels. The paper does not say the head's kind (here one linear layer, from zeros) nor which other patch (here
any of the image's, itself included).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.models.draws import uniform
from vitkit.models.vit import VisionTransformer, ViTConfig

__all__ = ["COLOURS", "MaskedPatchModel", "MaskedPatches", "mean_colours"]

LEVELS = 8  # of each channel: 3 bits
COLOURS = LEVELS**3
CORRUPTED, MASKED, REPLACED = 0.5, 0.8, 0.1  # parts: of all patches, of the corrupted ones twice
CHOOSE, TREAT, OTHER = 1, 2, 3  # what random numbers are for


def mean_colours(images: Tensor, patch_size: tuple[int, int], mean: Tensor, std: Tensor) -> Tensor:
    """Colours (B, h*w) int64 of the patches of normalised RGB images (B, 3, H, W), 64 r + 8 g + b.

    Pixels beyond the last whole patch are not read, as the model does not.
    """
    pixels = images * std[:, None, None] + mean[:, None, None]
    means = F.avg_pool2d(pixels.double(), patch_size)  # (B, 3, h, w) in [0, 1]
    # Levels are of bytes, floor(byte / 32). The small number is for means that rounding left just below a level's edge.
    levels = (means * 255 / 32 + 2e-6).floor().clamp(0, LEVELS - 1).long()
    r, g, b = levels.flatten(2).unbind(1)
    return (r * LEVELS + g) * LEVELS + b


class MaskedPatchModel(nn.Module):
    """A backbone with what this pre-training adds to it: the mask embedding and the head of colours."""

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        config = backbone.config
        if config.in_channels != 3 or config.stem is not None:
            raise UserError("masked patch prediction is of models of RGB patches: in_channels=3 and no ResNet stem.")
        if config.norm_after_pool:
            raise UserError("masked patch prediction reads the patches after the last norm: norm_after_pool=False.")
        self.backbone = backbone
        self.mask = nn.Parameter(torch.zeros(config.embed_dim))
        self.colours = nn.Linear(config.embed_dim, COLOURS)
        nn.init.zeros_(self.colours.weight)
        nn.init.zeros_(self.colours.bias)

    def forward(self, images: Tensor, corruption: Tensor) -> Tensor:
        """Logits (B, h*w, 512) of all patches.

        Args:
            images: (B, C, H, W).
            corruption: (B, h*w) int64: for each patch -2 to leave it, -1 for the mask, or the patch that takes its place.
        """

        def corrupt(_module: nn.Module, _inputs: object, embedded: Tensor) -> Tensor:
            x = embedded.flatten(2).transpose(1, 2)  # (B, h*w, D)
            source = corruption.clamp(min=0)[..., None].expand_as(x)
            replaced = torch.where((corruption >= 0)[..., None], x.gather(1, source), x)
            x = torch.where((corruption == -1)[..., None], self.mask.to(x.dtype), replaced)
            return x.transpose(1, 2).reshape(embedded.shape)

        hook = self.backbone.patch_embed.register_forward_hook(corrupt)
        try:
            features = self.backbone.forward_features(images)
        finally:
            hook.remove()
        logits: Tensor = self.colours(features.patches.flatten(1, 2))
        return logits


class MaskedPatches:
    """Mean cross-entropy of the colours of corrupted patches."""

    def __init__(self, seed: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.seed = seed
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def build(self, backbone: VisionTransformer) -> MaskedPatchModel:
        """The module to train.

        Raises:
            UserError: a backbone that has no patches of pixels.
        """
        return MaskedPatchModel(backbone)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss; the labels of the batch are not read."""
        config = _backbone_config(module)
        images = batch.images
        chosen, corruption = self.draw(batch, config.grid[0] * config.grid[1])
        logits = module(images, corruption).float()
        colours = mean_colours(images, config.patch_size, self.mean.to(images.device), self.std.to(images.device))
        return F.cross_entropy(logits[chosen], colours[chosen])

    def draw(self, batch: Batch, patches: int) -> tuple[Tensor, Tensor]:
        """(which patches are to be predicted (B, h*w) bool, what becomes of each, see `MaskedPatchModel.forward`).

        Exactly half of each image's patches are chosen; places say which example each one is, so that the draw is the same
        whoever computes it.
        """
        if batch.places is None:
            raise UserError("masked patch prediction needs batches whose examples have places.")
        places = batch.places
        rank = uniform(self.seed, 0, CHOOSE, places, patches).argsort(1).argsort(1)
        chosen = rank < round(CORRUPTED * patches)
        treat = uniform(self.seed, 0, TREAT, places, patches)
        other = (uniform(self.seed, 0, OTHER, places, patches) * patches).long().clamp(max=patches - 1)
        corruption = torch.where(treat < MASKED, -1, torch.where(treat < MASKED + REPLACED, other, -2))
        return chosen, torch.where(chosen, corruption, -2)


def _backbone_config(module: nn.Module) -> ViTConfig:
    inner = getattr(module, "module", module)  # of a module that torch's data parallelism wrapped
    assert isinstance(inner, MaskedPatchModel)
    return inner.backbone.config
