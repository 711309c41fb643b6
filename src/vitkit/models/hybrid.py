"""The ResNet in front of the paper's hybrids: post-activation bottlenecks, standardised kernels, GroupNorm, "SAME" padding.

Shape letters as in `vit`: B batch, C channels, H W pixels. Sizes are (height, width).

Source: arXiv 2010.11929, section 3.1 and B.2; numerics of the official code as in VIT_SPEC 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["STEM_NUMERICS", "ResNetStem", "StdConv", "Unit", "same_padding", "stem_grid", "stem_stride"]

ROOT_CHANNELS = 64
GROUPS = 32
# name -> GroupNorm epsilon, kernel epsilon, and where the latter is added: to the deviation or to the variance.
STEM_NUMERICS = {"official": (1e-6, 1e-5, "deviation"), "timm": (1e-5, 1e-8, "variance")}


def stem_stride(units: Sequence[int]) -> int:
    """Pixels for each position of the stem's output: the root divides by 4, every stage after the first by 2."""
    return 4 * 2 ** max(len(units) - 1, 0)


def stem_grid(image_size: tuple[int, int], units: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the stem's output; every division rounds up."""
    stride = stem_stride(units)
    return -(-image_size[0] // stride), -(-image_size[1] // stride)


def same_padding(n: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after an axis of ``n`` as TensorFlow's "SAME": the odd one goes to the lower and right edge."""
    total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return total // 2, total - total // 2


def _same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad (B, C, H, W) by `same_padding`."""
    pads = [*same_padding(x.shape[3], kernel, stride), *same_padding(x.shape[2], kernel, stride)]
    return F.pad(x, pads, value=value) if any(pads) else x


class StdConv(nn.Conv2d):
    """Convolution without bias whose kernel is standardised per output channel at every forward; "SAME" padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, numerics: str) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, bias=False)
        _, self.eps, self.eps_of = STEM_NUMERICS[numerics]

    def standardised(self) -> Tensor:
        """The kernel that is applied, (O, C, k, k)."""
        if self.eps_of == "variance":  # as timm, to the last bit: a deep stem magnifies what is rounded otherwise
            flat = self.weight.reshape(1, self.out_channels, -1)
            return F.batch_norm(flat, None, None, training=True, eps=self.eps).reshape_as(self.weight)
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return weight / (weight.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + self.eps)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return F.conv2d(_same(x, kernel, stride), self.standardised(), stride=stride)


class Unit(nn.Module):
    """Bottleneck of width f: relu(shortcut + 1x1, 3x3, 1x1 convolutions); (B, C, H, W) -> (B, 4f, H/stride, W/stride)."""

    def __init__(self, in_channels: int, width: int, stride: int, numerics: str) -> None:
        super().__init__()
        out = 4 * width
        self.conv1, self.gn1 = StdConv(in_channels, width, 1, 1, numerics), _norm(width, numerics)
        self.conv2, self.gn2 = StdConv(width, width, 3, stride, numerics), _norm(width, numerics)
        self.conv3, self.gn3 = StdConv(width, out, 1, 1, numerics), _norm(out, numerics)
        changes = in_channels != out or stride != 1
        self.conv_proj = StdConv(in_channels, out, 1, stride, numerics) if changes else None
        self.gn_proj = _norm(out, numerics) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        y = self.gn3(self.conv3(y))
        if self.conv_proj is not None and self.gn_proj is not None:
            x = self.gn_proj(self.conv_proj(x))
        return F.relu(x + y)


class ResNetStem(nn.Module):
    """Images (B, C, H, W) to features (B, `out_channels`, h, w) with (h, w) = `stem_grid`."""

    def __init__(self, in_channels: int, units: Sequence[int], numerics: str) -> None:
        super().__init__()
        self.conv_root = StdConv(in_channels, ROOT_CHANNELS, 7, 2, numerics)
        self.gn_root = _norm(ROOT_CHANNELS, numerics)
        channels, stages = ROOT_CHANNELS, []
        for stage, count in enumerate(units):
            width = ROOT_CHANNELS * 2**stage
            blocks = []
            for unit in range(count):
                blocks.append(Unit(channels, width, 2 if stage and not unit else 1, numerics))
                channels = 4 * width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.gn_root(self.conv_root(x)))
        x = F.max_pool2d(_same(x, 3, 2, value=float("-inf")), 3, stride=2)
        for stage in self.stages:
            x = stage(x)
        return x

    def start_as_identity(self) -> None:
        """Zero the last scale of every unit, so that it starts as its shortcut."""
        for module in self.modules():
            if isinstance(module, Unit):
                nn.init.zeros_(module.gn3.weight)


def _norm(channels: int, numerics: str) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=STEM_NUMERICS[numerics][0])
