"""Sketch synthesis ([Lin2020]): a network draws the structure of the face, the kernel follows in closed form.

sketch s = G(y) -> kernel k by least squares (eq. 8) -> picture x0 by a Wiener filter (eq. 11) -> x = A(x0, s, y)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ...images.planes import LUMA
from ..blocks import UNet, channels_last
from . import steps
from .paper import ArtifactNetwork, SketchGenerator

KERNEL_SIDE = 27  # pixels
ITERATIONS = 12  # of conjugate gradients
ROUNDS = 2
KERNEL_WIDTHS = (16, 32, 48)  # of the network that cleans kernels
GAMMAS = (0.01, 0.1)  # of eq. 10, before training: two pictures, one sharper, one with less noise
MARGIN = 3  # pixels at the border whose gradients have no weight


class Sketch(nn.Module):
    """Restored pictures and their kernels from blurred RGB pictures (N, 3, H, W) in [0, 1].

    The default differs from the paper in both networks, which are trunks without normalization, and in these points.
    The circular transforms of eq. 9 are wrong at the borders of a photograph, so the least squares are those of the
    blind method, on the kernel's window and with a weight for each gradient, which the networks give as well; their
    solution has a pedestal and blurred tracks, and a small network cleans it. Eq. 11 is solved for x - y, so that no
    prior darkens the picture and a sharp one stays. There are two rounds: the picture of the first is the sketch of the
    second. The last network corrects DeepDeblur's picture, not x0.

    Attributes
    ----------
    shared : {prefix of tensors: name of the network whose they are}; they are not in the file of weights.
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
        self.round_count = 1 if self.is_paper else ROUNDS
        self.shared = {} if self.is_paper else {"trunk.": "deepdeblur"}
        self.generator: nn.Module
        self.artifacts: nn.Module
        if self.is_paper:
            self.generator, self.artifacts = SketchGenerator(*widths), ArtifactNetwork(*artifact_widths)
        else:
            self.generator = UNet(3, 2, widths, counts)
            self.trunk = UNet(3, 3).requires_grad_(False)
            self.artifacts = UNet(3 * len(GAMMAS) + 7, 4, artifact_widths, artifact_counts)
            self.kernel_network = UNet(1, 1, KERNEL_WIDTHS, (1,) * 5)
        self.log_beta = nn.Parameter(torch.tensor(math.log(0.02)))
        self.log_gamma = nn.Parameter(torch.tensor(GAMMAS[: 1 if self.is_paper else None]).log())
        channels_last(self)

    @classmethod
    def paper(cls) -> Sketch:
        """Fig. 3, for kernels of up to 51 pixels: 9.4 and 1.9 million weights."""
        return cls("paper", (64,), (), (64,), (), 51)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures (N, 3, H, W), kernels (N, side, side))."""
        *_, last = self.rounds(images, self.one_step(images))
        return last

    def rounds(self, images: torch.Tensor, one_step: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(pictures, kernels) of each round."""
        sketch, weight = self.sketch(images)
        for _ in range(self.round_count):
            kernel = self.kernel(images, sketch, weight)
            picture, weight = self.picture(images, one_step, kernel, sketch)
            sketch = luminance(picture)
            yield picture, kernel

    def estimate_kernel(self, images: torch.Tensor) -> torch.Tensor:
        """The kernels alone, without the picture of the last round."""
        (sketch, weight), one_step = self.sketch(images), self.one_step(images)
        for _ in range(self.round_count - 1):
            picture, weight = self.picture(images, one_step, self.kernel(images, sketch, weight), sketch)
            sketch = luminance(picture)
        return self.kernel(images, sketch, weight)

    def restore(self, images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """The pictures for kernels of another source (N, side, side), such as another part of a large picture."""
        sketch, one_step = self.sketch(images)[0], self.one_step(images)
        for _ in range(self.round_count):
            picture, _ = self.picture(images, one_step, kernel, sketch)
            sketch = luminance(picture)
        return picture

    def one_step(self, images: torch.Tensor) -> torch.Tensor:
        """DeepDeblur's picture; in the paper's network, none."""
        return images if self.is_paper else (images + self.trunk(images - 0.5)).float()

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

    def wiener(self, images: torch.Tensor, kernel: torch.Tensor) -> list[torch.Tensor]:
        """x0 of eq. 11 for each gamma; for x - y in the default."""
        radius, (h, w) = self.side // 2, images.shape[-2:]
        data, gammas = steps.periodic_border(images, kernel), self.log_gamma.exp()
        starts = [steps.wiener(data, kernel, gammas[0])] if self.is_paper else steps.corrected(data, kernel, gammas)
        return [start[..., radius : radius + h, radius : radius + w].clamp(-0.5, 1.5) for start in starts]

    def picture(
        self, images: torch.Tensor, one_step: torch.Tensor, kernel: torch.Tensor, sketch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x (N, 3, H, W), the weights (N, H, W) of its gradients in the next round).

        The paper's is x0 without its artifacts, the default DeepDeblur's picture with what x0 adds.
        """
        starts = self.wiener(images, kernel)
        if self.is_paper:
            change = self.artifacts(torch.cat([*starts, sketch[:, None]], dim=1) - 0.5)
            return starts[0] + change, torch.ones_like(sketch)
        change = self.artifacts(torch.cat([*starts, images, one_step, sketch[:, None]], dim=1) - 0.5).float()
        return one_step + change[:, :3], torch.sigmoid(change[:, 3]) * border_window(images)


def luminance(images: torch.Tensor) -> torch.Tensor:
    """(N, H, W) of RGB pictures."""
    return LUMA[0] * images[:, 0] + LUMA[1] * images[:, 1] + LUMA[2] * images[:, 2]


def border_window(images: torch.Tensor) -> torch.Tensor:
    """1 inside and 0 within MARGIN pixels of the border, (H, W)."""
    window = images.new_zeros(images.shape[-2:])
    window[MARGIN:-MARGIN, MARGIN:-MARGIN] = 1
    return window
