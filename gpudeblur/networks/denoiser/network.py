"""The denoiser: a residual U-Net without normalization and without biases, for photographs, faces and text.

It removes white Gaussian noise of a given level, and what the quadratic step of half-quadratic splitting leaves behind,
of which the level is the noise that the proximal step assumes. Without biases it is homogeneous,
D(a x, a sigma) = a D(x, sigma) for a > 0, so that it holds beyond the levels that it was trained on [Mohan2020].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..blocks import MULTIPLE, channels_last

WIDTHS = (32, 64, 128)  # channels at 1/2, 1/4 and 1/8 of the size
COUNTS = (1, 2, 3, 2, 1)  # residual blocks on the way down, at the smallest size, and on the way back


class Denoiser(nn.Module):
    """D(x, sigma) = x - trunk(x, sigma) for pictures in about [0, 1] of any size.

    Pixel unshuffle by 2, the level as one more channel - blocks - down - blocks - down - blocks - up + skip - blocks -
    up + skip - blocks - pixel shuffle.

    Parameters
    ----------
    widths : channels at the three sizes.
    counts : blocks, see `COUNTS`.

    References
    ----------
    [Mohan2020] S. Mohan, Z. Kadkhodaie, E. P. Simoncelli, C. Fernandez-Granda: Robust and interpretable blind image
    denoising via bias-free convolutional neural networks, ICLR 2020.
    """

    NAME = "denoiser"

    def __init__(self, widths: Sequence[int] = WIDTHS, counts: Sequence[int] = COUNTS) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "counts": list(counts)}
        large, middle, small = widths
        self.entry = unbiased(4 * 3 + 1, large)
        self.downs = nn.ModuleList([unbiased(large, middle, 2), unbiased(middle, small, 2)])
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)
            for inputs, outputs in ((small, middle), (middle, large))
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(UnbiasedResidual(width) for _ in range(count)))
            for width, count in zip((large, middle, small, middle, large), counts, strict=True)
        )
        self.exit = unbiased(large, 4 * 3, zero=True)
        channels_last(self)

    def forward(self, images: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
        """The denoised pictures.

        Parameters
        ----------
        images : (N, 3, H, W), or (N, 1, H, W) for gray ones: these become three equal channels, and the mean of the
            three denoised ones is returned. Neither side has a smallest length.
        sigma : standard deviation of the noise in the units of the images: a number, or one a picture, (N,) or
            (N, 1, 1, 1).
        """
        if images.shape[1] == 1:
            return self(images.expand(-1, 3, -1, -1), sigma).mean(dim=1, keepdim=True)
        h, w = images.shape[-2:]
        x = functional.pixel_unshuffle(pad_any(images), 2)
        if not isinstance(sigma, torch.Tensor):
            sigma = images.new_full((len(images),), sigma)
        level = sigma.to(x).reshape(-1, 1, 1, 1).expand(len(x), 1, *x.shape[-2:])
        x = torch.cat([x, level], dim=1).contiguous(memory_format=torch.channels_last)
        large = self.blocks[0](self.entry(x))
        middle = self.blocks[1](self.downs[0](large))
        x = self.blocks[2](self.downs[1](middle))
        x = self.blocks[3](self.ups[0](x).add_(middle))
        x = self.blocks[4](self.ups[1](x).add_(large))
        return images - functional.pixel_shuffle(self.exit(x), 2)[..., :h, :w]


class UnbiasedResidual(nn.Module):
    """x + conv(relu(conv(x))) without biases, the identity at the beginning."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = unbiased(width, width), unbiased(width, width, zero=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place, which no gradient minds: on a CPU new memory costs as much as a third of a convolution.
        return self.second(functional.relu(self.first(x), inplace=True)).add_(x)


def unbiased(inputs: int, outputs: int, size: int = 3, *, zero: bool = False) -> nn.Conv2d:
    """A convolution without biases: 3 x 3 that keeps the size, or 2 x 2 that halves it. He's weights, or zeros."""
    odd = size % 2
    layer = nn.Conv2d(inputs, outputs, size, stride=1 if odd else size, padding=size // 2 * odd, bias=False)
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


def pad_any(images: torch.Tensor, multiple: int = MULTIPLE) -> torch.Tensor:
    """Pad (N, C, H, W) at the bottom and the right until both sides are multiples; crop with [..., :H, :W].

    By reflection, and where a side is too short for that, by its last pixels.
    """
    h, w = images.shape[-2:]
    bottom, right = -h % multiple, -w % multiple
    if not (bottom or right):
        return images
    mode = "reflect" if bottom < h and right < w else "replicate"
    return functional.pad(images, (0, right, 0, bottom), mode=mode)
