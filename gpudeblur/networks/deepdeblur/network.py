"""DeepDeblur ([WangL2017]): the sharp picture from the blurred one in one step, without a blur kernel.

The paper's network has six inception modules at full size: `DeepDeblur.paper()`. The default, which ships, has the same
task and a U-Net of residual blocks at half size: a fortieth of the multiplications, so that a CPU can train it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..blocks import UNet, channels_last, conv, leaky_relu, pad_to_multiple

BRANCHES = (1, 3, 5, 7, 14)  # sides of the filters of an inception module, in pixels


class Inception(nn.Module):
    """x + W [branches]: each branch halves the channels by a 1 x 1 filter, then filters them ([WangL2017], Fig. 3)."""

    def __init__(self, width: int, branches: tuple[int, ...] = BRANCHES) -> None:
        super().__init__()
        half, self.sizes = width // 2, branches
        self.reductions = nn.ModuleList(conv(width, half, 1) for _ in branches)
        self.filters = nn.ModuleList(conv(half, half, size) for size in branches)
        self.join = conv(half * len(branches), width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            leaky_relu(filters(pad_even(leaky_relu(reduction(x)), size)))
            for size, reduction, filters in zip(self.sizes, self.reductions, self.filters, strict=True)
        ]
        return x + self.join(torch.cat(parts, dim=1))


def pad_even(x: torch.Tensor, size: int) -> torch.Tensor:
    """Zeros around `x` so that filters of an even size keep its size: one pixel less before than after."""
    before, after = (size - 1) // 2, size // 2
    return x if size % 2 else functional.pad(x, (before, after, before, after))


class InceptionTrunk(nn.Module):
    """conv 3 x 3 - inception modules - conv 1 x 1, at full size."""

    def __init__(self, width: int, modules: int) -> None:
        super().__init__()
        self.entry = conv(3, width)
        self.modules_ = nn.Sequential(*(Inception(width) for _ in range(modules)))
        self.exit = conv(width, 3, 1, zero=True)
        self.reach = 1 + modules * (max(BRANCHES) // 2)  # see `UNet`

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.exit(self.modules_(leaky_relu(self.entry(images))))


class DeepDeblur(nn.Module):
    """x = B + trunk(B) for RGB pictures (N, 3, H, W) in [0, 1], sides from 16 pixels.

    Parameters
    ----------
    trunk : {"unet", "inception"}
        The default, or the paper's.
    widths : channels: three for "unet", one for "inception".
    counts : blocks: five for "unet", one for "inception".
    """

    NAME = "deepdeblur"

    def __init__(
        self,
        trunk: str = "unet",
        widths: tuple[int, ...] = (32, 64, 96),
        counts: tuple[int, ...] = (2, 2, 3, 2, 2),
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"trunk": trunk, "widths": list(widths), "counts": list(counts)}
        self.is_paper = trunk == "inception"
        self.trunk = InceptionTrunk(*widths, *counts) if self.is_paper else UNet(3, 3, widths, counts)
        self.reach = self.trunk.reach
        channels_last(self)

    @classmethod
    def paper(cls) -> DeepDeblur:
        """64 channels, six inception modules, 1.85 million weights."""
        return cls("inception", (64,), (6,))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The restored pictures; in evaluation the mean with what the mirrored picture gives, 0.08 dB better."""
        if self.training:
            return images + self.trunk(images - 0.5)
        h, w = images.shape[-2:]
        padded = pad_to_multiple(images)  # so that the mirrored picture has the same grid of 8 pixels, in a tile too
        mirrored = padded.flip(-1)
        change = self.trunk(padded - 0.5) + self.trunk(mirrored - 0.5).flip(-1)
        return images + 0.5 * change[..., :h, :w]
