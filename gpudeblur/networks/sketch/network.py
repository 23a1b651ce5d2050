"""Sketch synthesis ([Lin2020]): a network draws the structure of the face, the kernel follows in closed form.

sketch s = G(y) -> kernel k by least squares (eq. 8) -> picture x0 by a Wiener filter (eq. 11) -> x = A(x0, s, y)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...images.planes import LUMA
from ..blocks import UNet, channels_last
from . import steps
from .paper import ArtifactNetwork, SketchGenerator

KERNEL_SIDE = 27  # pixels
ITERATIONS = 12  # of conjugate gradients
KERNEL_WIDTHS = (16, 32, 48)  # of the network that cleans kernels
MARGIN = 3  # pixels at the border whose gradients have no weight


class Sketch(nn.Module):
    """Restored pictures and their kernels from blurred RGB pictures (N, 3, H, W) in [0, 1].

    The default differs from the paper in both networks, which are trunks without normalization, and in eq. 9: its
    circular transforms are wrong at the borders of a photograph, so the least squares are those of the blind method,
    on the kernel's window and with a weight for each gradient, which the generator gives as well. Their solution has
    a pedestal and blurred tracks, and a small network cleans it.

    Attributes
    ----------
    log_beta : logarithm of beta, eq. 8, as a fraction of the energy of the sketch's gradients.
    log_gamma : logarithm of gamma, eq. 10.

    Parameters
    ----------
    layout : {"default", "paper"}
    widths, counts : of the generator, as in `UNet`; the paper's has one width, and its own blocks.
    artifact_widths, artifact_counts : the same of the network that removes artifacts.
    side : of the kernel, odd.
    """

    NAME = "sketch"

    def __init__(
        self,
        layout: str = "default",
        widths: Sequence[int] = (32, 64, 96),
        counts: Sequence[int] = (2, 2, 3, 2, 2),
        artifact_widths: Sequence[int] = (24, 48, 64),
        artifact_counts: Sequence[int] = (2, 2, 2, 2, 2),
        side: int = KERNEL_SIDE,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "layout": layout, "widths": list(widths), "counts": list(counts), "artifact_widths": list(artifact_widths),
            "artifact_counts": list(artifact_counts), "side": side,
        }  # fmt: skip
        self.side, self.is_paper = side, layout == "paper"
        self.generator: nn.Module
        self.artifacts: nn.Module
        if self.is_paper:
            self.generator, self.artifacts = SketchGenerator(*widths), ArtifactNetwork(*artifact_widths)
        else:
            self.generator, self.artifacts = UNet(3, 2, widths, counts), UNet(7, 3, artifact_widths, artifact_counts)
            self.kernel_network = UNet(1, 1, KERNEL_WIDTHS, (1,) * 5)
        self.log_beta = nn.Parameter(torch.tensor(math.log(0.02)))
        self.log_gamma = nn.Parameter(torch.tensor(math.log(0.01)))
        channels_last(self)

    @classmethod
    def paper(cls) -> Sketch:
        """Fig. 3, for kernels of up to 51 pixels: 9.4 and 1.9 million weights."""
        return cls("paper", (64,), (), (64,), (), 51)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures (N, 3, H, W), kernels (N, side, side))."""
        sketch, weight = self.sketch(images)
        kernel = self.kernel(images, sketch, weight)
        return self.picture(images, kernel, sketch), kernel

    def estimate_kernel(self, images: torch.Tensor) -> torch.Tensor:
        """The kernels alone."""
        return self.kernel(images, *self.sketch(images))

    def restore(self, images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """The pictures for kernels of another source (N, side, side), such as another part of a large picture."""
        return self.picture(images, kernel, self.sketch(images)[0])

    def sketch(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(s, w), (N, H, W) each: the structure of the sharp picture, and how far each of its gradients counts."""
        output = self.generator(images - 0.5).float()
        if self.is_paper:
            return output[:, 0], torch.ones_like(output[:, 0])
        return luminance(images) + output[:, 0], torch.sigmoid(output[:, 1]) * border_window(images)

    def kernel(self, images: torch.Tensor, sketch: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """k of eq. 8 on its support, (N, side, side), non-negative, sum 1."""
        if self.is_paper:
            beta = self.log_beta.exp() * steps.gradient(sketch).square().sum(dim=(-3, -2, -1))
            return steps.normalize_kernel(steps.kernel_fft(sketch, luminance(images), beta, self.side))
        matrix, correlation = steps.normal_equations(sketch, luminance(images), weight, self.side)
        ridge = self.log_beta.exp() * matrix[:, self.side - 1, self.side - 1] + steps.TINY
        kernel = steps.toeplitz_cg(matrix, correlation, ridge, ITERATIONS)
        peak = kernel.amax(dim=(-2, -1), keepdim=True)
        kernel = kernel / peak.clamp_min(steps.TINY)
        kernel = kernel + self.kernel_network(kernel[:, None])[:, 0].float()
        return steps.normalize_kernel(torch.where(peak > steps.TINY, kernel, 0))  # a flat picture has none

    def wiener(self, images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """x0 of eq. 11."""
        radius, (h, w) = self.side // 2, images.shape[-2:]
        data = steps.periodic_border(images, kernel)
        return steps.wiener(data, kernel, self.log_gamma.exp())[..., radius : radius + h, radius : radius + w]

    def picture(self, images: torch.Tensor, kernel: torch.Tensor, sketch: torch.Tensor) -> torch.Tensor:
        """x, from the Wiener filter's x0 without its artifacts."""
        start = self.wiener(images, kernel).clamp(-0.5, 1.5)
        inputs = [start, sketch[:, None]] if self.is_paper else [start, images, sketch[:, None]]
        return start + self.artifacts(torch.cat(inputs, dim=1) - 0.5)


def luminance(images: torch.Tensor) -> torch.Tensor:
    """(N, H, W) of RGB pictures."""
    return LUMA[0] * images[:, 0] + LUMA[1] * images[:, 1] + LUMA[2] * images[:, 2]


def border_window(images: torch.Tensor) -> torch.Tensor:
    """1 inside and 0 within MARGIN pixels of the border, (H, W)."""
    window = images.new_zeros(images.shape[-2:])
    window[MARGIN:-MARGIN, MARGIN:-MARGIN] = 1
    return window
