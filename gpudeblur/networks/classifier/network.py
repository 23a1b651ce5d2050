"""The network: a binary classifier that gives the probability that an image is blurred ([Li2018], section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..blocks import channels_last
from ..weights import read_weights

# Output channels of every convolution except the last, which has one. The paper uses 64 throughout; these cost a tenth
# as much per pixel, because the first layers, where the image is largest, are the narrowest.
CHANNELS = (16, 16, 32, 64, 64)
PAPER_CHANNELS = (64, 64, 64, 64, 64)
# The image is shifted to mean 0, so that zero padding creates no edge, and scaled to about unit variance.
CONTRAST = 4.0
WEIGHTS = Path(__file__).with_name("classifier.safetensors")
CHECKSUM = "0e0a9c0c5c3c6266f4173e2a9294fe592a6a5d2977c4e08b93f2567b9c6dfea3"  # SHA-256 of WEIGHTS


class Classifier(nn.Module):
    """f(x) = P(x is blurred) for gray images of any size.

    conv - conv - pool - conv - pool - conv - pool - conv - conv to one map - mean - sigmoid. Every convolution is 3 x 3
    and all but the last are followed by a ReLU; pooling is the maximum over 2 x 2. The mean over the last map, global
    average pooling, allows any image size (Fig. 2). The images of a stack do not influence each other.

    Parameters
    ----------
    channels : five numbers, see `CHANNELS`.
    """

    NAME = "classifier"

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        if len(channels) != len(CHANNELS) or min(channels) < 1:
            raise ValueError(f"channels must be {len(CHANNELS)} positive numbers, got {channels}; leave it out")
        self.channels = tuple(map(int, channels))
        self.config: dict[str, Any] = {"channels": list(self.channels)}
        widths = (1, *self.channels, 1)
        self.layers: Any = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        channels_last(self)

    @torch.no_grad()
    def initialize(self, seed: int) -> Classifier:
        """Uniform Xavier weights with the gain of a ReLU, zero biases."""
        generator = torch.Generator().manual_seed(seed)
        gain = nn.init.calculate_gain("relu")
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight, gain, generator=generator)
            nn.init.zeros_(layer.bias)
        return self

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """log(f / (1 - f)) of images (N, 1, H, W), (N,)."""
        x = CONTRAST * (images - images.mean(dim=(-2, -1), keepdim=True))
        x = x.contiguous(memory_format=torch.channels_last)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index < len(self.layers) - 1:
                x = torch.relu(x)
            if index in (1, 2, 3):
                x = nn.functional.max_pool2d(x, 2, ceil_mode=True)
        # Under autocast x is bfloat16, whose 8 bits are too few for the loss.
        return x.mean(dim=(-3, -2, -1), dtype=images.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """f of images (N, 1, H, W) in [0, 1], (N,)."""
        return torch.sigmoid(self.logits(images))


def load_classifier(path: Path | None = None, *, checksum: str | None = None) -> Classifier:
    """The classifier with the weights of the package, or with those of a file or checkpoint.

    Raises
    ------
    ValueError
        As `unpack`; or the names or shapes in the file are not those of a `Classifier`.
    """
    if path is None:
        path, checksum = WEIGHTS, CHECKSUM
    tensors, _ = read_weights(path, checksum)
    filters = [tensors.get(f"layers.{index}.weight") for index in range(len(CHANNELS) + 1)]
    if any(weight is None or weight.ndim != 4 for weight in filters):
        raise ValueError(f"weights {path} must be those of a Classifier, got {sorted(tensors)}; name another file")
    network = Classifier([len(weight) for weight in filters[:-1] if weight is not None])
    for name, parameter in network.state_dict().items():
        if name not in tensors or tensors[name].shape != parameter.shape:
            shape = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise ValueError(
                f"weights {path} must hold {name} of shape {tuple(parameter.shape)}, got {shape}; they are of another "
                "network"
            )
    if extra := sorted(set(tensors) - set(network.state_dict())):
        raise ValueError(f"weights {path} must hold a Classifier alone, got {extra} too; they are of another network")
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)
