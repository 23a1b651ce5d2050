"""The binary classifier of seed 3, section 3: how likely a picture is to be blurred."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

# Channels after each of the convolutions but the last, which has one. The paper takes 64 throughout; with these a
# pixel costs a tenth, most of it saved where the picture is still large.
CHANNELS = (16, 16, 32, 64, 64)
# The picture is shifted to mean 0, so that the zeros around it are no edge, and then scaled to about unit variance.
CONTRAST = 4.0


def channels_last(network: Any) -> None:
    """The layout of weights that is twice as fast on a CPU."""
    network.to(memory_format=torch.channels_last)


class Classifier(nn.Module):
    """f(x) = P(x is blurred), for gray pictures of any size.

    conv - conv - pool - conv - pool - conv - pool - conv - conv to one map - mean - sigmoid: every convolution is 3 x 3
    and, but for the last, followed by a ReLU; pooling takes the maximum of 2 x 2. The mean over the last map (global
    average pooling) is what makes any size do (Fig. 2). Pictures of a stack do not see each other.

    Parameters
    ----------
    channels : five numbers, see `CHANNELS`.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        if len(channels) != len(CHANNELS) or any(one < 1 for one in channels):
            raise ValueError(f"channels must be {len(CHANNELS)} positive numbers, got {channels}; leave it out")
        self.channels = tuple(int(one) for one in channels)
        widths = (1, *self.channels, 1)
        self.layers: Any = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        channels_last(self)

    @torch.no_grad()
    def initialise(self, seed: int) -> Classifier:
        """Xavier's weights (uniform, with the gain of a ReLU), zero biases."""
        generator = torch.Generator().manual_seed(seed)
        gain = nn.init.calculate_gain("relu")
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight, gain, generator=generator)
            nn.init.zeros_(layer.bias)
        return self

    def logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """log(f / (1 - f)) of pictures (N, 1, H, W), (N,)."""
        x = CONTRAST * (pictures - pictures.mean(dim=(-2, -1), keepdim=True))
        x = x.contiguous(memory_format=torch.channels_last)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number < len(self.layers) - 1:
                x = torch.relu(x)
            if number in (1, 2, 3):
                x = nn.functional.max_pool2d(x, 2, ceil_mode=True)
        # Under autocast x is bfloat16, whose 8 bits are too few for what the loss is made of.
        return x.mean(dim=(-3, -2, -1), dtype=pictures.dtype)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """f of pictures (N, 1, H, W) in [0, 1], (N,)."""
        return torch.sigmoid(self.logits(pictures))
