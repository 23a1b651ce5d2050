"""The judge of candidate kernels, as it is trained; `forward` computes the same from its weights without torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .forward import RESIDUAL_SCALE

WIDTHS = (16, 24, 32, 48, 64)  # channels at 1/2, 1/4, ... of the size
HIDDEN = 32


class Judge(nn.Module):
    """One logit for a candidate kernel: the larger, the rather it is right. It compares kernels of one image.

    3 x 3 convolutions of stride 2 with ReLU - mean over the pixels - hidden layer - logit. It takes images of any size.

    Parameters
    ----------
    widths : channels of the convolutions.
    hidden : units of the hidden layer.
    """

    NAME = "judge"

    def __init__(self, widths: Sequence[int] = WIDTHS, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "hidden": hidden}
        channels = [3, *widths]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1) for inputs, outputs in itertools.pairwise(channels)
        )
        self.hidden, self.logit = nn.Linear(channels[-1], hidden), nn.Linear(hidden, 1)

    def forward(self, latent: torch.Tensor, blurred: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Logits (N,).

        Parameters
        ----------
        latent, blurred : x and B, (N, H, W), both divided by the noise of the image.
        residual : x * k - B, (N, H, W).
        """
        mean = blurred.mean(dim=(1, 2), keepdim=True)
        x = torch.stack([latent - mean, blurred - mean, RESIDUAL_SCALE * residual], dim=1)
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
        return self.logit(functional.relu(self.hidden(x.mean(dim=(2, 3)))))[:, 0]
