"""The binary classifier of seed 3, section 3: how likely a picture is to be blurred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..weights import unpack

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


FOLDER = Path(__file__).parent
# SHA-256 of what ships.
CHECKSUMS: Mapping[str, str] = {
    "classifier.safetensors": "0e0a9c0c5c3c6266f4173e2a9294fe592a6a5d2977c4e08b93f2567b9c6dfea3",
}


def load_classifier(path: Path | None = None, *, checksum: str | None = None) -> Classifier:
    """The classifier with the weights that ship with the package, or with those of a file.

    Raises
    ------
    ValueError
        As `unpack`; or the file holds other names or shapes than the network.
    """
    if path is None:
        path, checksum = FOLDER / "classifier.safetensors", CHECKSUMS["classifier.safetensors"]
    tensors, _ = unpack(path, checksum)
    tensors = {name: one for name, one in tensors.items() if not name.startswith("momentum.")}
    weights = [tensors.get(f"layers.{number}.weight") for number in range(6)]
    if any(one is None or one.ndim != 4 for one in weights):
        raise ValueError(f"weights {path} must be those of a Classifier, got {sorted(tensors)}; name another file")
    network = Classifier([len(one) for one in weights[:-1] if one is not None])
    for name, own in network.state_dict().items():
        if name not in tensors or tensors[name].shape != own.shape:
            got = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise ValueError(
                f"weights {path} must hold {name} of shape {tuple(own.shape)}, got {got}; they are of another network"
            )
    if extra := sorted(set(tensors) - set(network.state_dict())):
        raise ValueError(f"weights {path} must hold a Classifier alone, got {extra} too; they are of another network")
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)
