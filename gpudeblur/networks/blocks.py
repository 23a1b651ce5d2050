"""Layers that several networks share, and the U-Net trunk of the default configurations.

No layer here normalizes over a picture or a batch, so brightness and neighbors do not change what a network does, and
every trunk ends in a convolution whose weights begin as 0: a new network changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

SLOPE = 0.1  # of leaky ReLUs below 0
MULTIPLE = 8  # pixels; the sides of pictures inside `UNet` are multiples of it
RECYCLES = 2  # of a recurrent convolution
DENSE_SLOPE = 0.2  # of leaky ReLUs below 0 in dense blocks, as [Qi2020]
DENSE_SCALE = 0.2  # alpha of [Qi2020]: of what a dense block adds


def conv(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, zero: bool = False) -> nn.Conv2d:
    """A convolution with He's weights for leaky ReLUs, or zeros, and biases of 0.

    Odd filters have a margin of zeros that keeps the size (at stride 1); even ones have none.
    """
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2 if size % 2 else 0)
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.kaiming_normal_(layer.weight, SLOPE, nonlinearity="leaky_relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def channels_last(network: Any) -> None:
    """Store the weights channels last, which is twice as fast on a CPU."""
    network.to(memory_format=torch.channels_last)


def leaky_relu(x: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(x, SLOPE)


def pad_to_multiple(images: torch.Tensor, multiple: int = MULTIPLE) -> torch.Tensor:
    """Reflect (N, C, H, W) at the bottom and the right until both sides are multiples; crop with [..., :H, :W]."""
    h, w = images.shape[-2:]
    bottom, right = -h % multiple, -w % multiple
    return functional.pad(images, (0, right, 0, bottom), mode="reflect") if bottom or right else images


class Residual(nn.Module):
    """x + conv(leaky(conv(x))), the identity at the beginning."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width, zero=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(leaky_relu(self.first(x)))


class UNet(nn.Module):
    """Residual blocks at 1/2, 1/4 and 1/8 of the size; the output is 0 at the beginning.

    Pixel unshuffle by 2 - blocks - down - blocks - down - blocks - up + skip - blocks - up + skip - blocks - shuffle.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels at the three sizes.
    counts : blocks before the first "down", before the second, at the smallest size, and on the way back.
    """

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        widths: Sequence[int] = (32, 64, 96),
        counts: Sequence[int] = (2, 2, 3, 2, 2),
    ) -> None:
        super().__init__()
        large, middle, small = widths
        self.entry = conv(4 * inputs, large)
        self.downs = nn.ModuleList([conv(large, middle, 2, stride=2), conv(middle, small, 2, stride=2)])
        self.ups = nn.ModuleList([conv(small, 4 * middle, 1), conv(middle, 4 * large, 1)])
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(count)))
            for width, count in zip((large, middle, small, middle, large), counts, strict=True)
        )
        self.exit = conv(large, 4 * outputs, zero=True)
        # Pixels from an output pixel to the farthest input pixel that influences it: each 3 x 3 filter adds a pixel of
        # its size, and up to 7 pixels share one at the smallest size.
        first, second, smallest, third, last = (2 * count for count in counts)
        self.reach = 2 * (2 + first + last) + 4 * (second + third) + 8 * smallest + MULTIPLE - 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) of any size from 16 pixels to (N, outputs, H, W)."""
        h, w = images.shape[-2:]
        x = functional.pixel_unshuffle(pad_to_multiple(images), 2).contiguous(memory_format=torch.channels_last)
        large = self.blocks[0](leaky_relu(self.entry(x)))
        middle = self.blocks[1](self.downs[0](large))
        x = self.blocks[2](self.downs[1](middle))
        x = self.blocks[3](functional.pixel_shuffle(self.ups[0](x), 2) + middle)
        x = self.blocks[4](functional.pixel_shuffle(self.ups[1](x), 2) + large)
        return functional.pixel_shuffle(self.exit(x), 2)[..., :h, :w]


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def initialized(make: Any, seed: int) -> Any:
    """make() with the random weights of a seed; the global generator of torch stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class RecurrentConv(nn.Module):
    """y = f(W x), then twice y = f(W (x + y)) with the same W: "recycles twice" ([Qi2020], section 3.3)."""

    def __init__(self, width: int, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.filters, self.activation = conv(width, width), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.activation(self.filters(x))
        for _ in range(RECYCLES):
            y = self.activation(self.filters(x + y))
        return y


class RRRB(nn.Module):
    """Residual-in-recurrent residual block ([Qi2020], Fig. 3b): x + r(r(x)), r(x) = x + two recurrent convolutions."""

    def __init__(self, width: int, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(RecurrentConv(width, activation), RecurrentConv(width, activation)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for block in self.blocks:
            y = y + block(y)
        return x + y


class DenseBlock(nn.Module):
    """x + alpha D(x): each of five convolutions reads x and what all earlier ones added to it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.filters = nn.ModuleList(
            conv(width + index * growth, growth if index < 4 else width) for index in range(5)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = x
        for filters in self.filters[:-1]:
            features = torch.cat([features, functional.leaky_relu(filters(features), DENSE_SLOPE)], dim=1)
        return x + DENSE_SCALE * self.filters[-1](features)


class RRDB(nn.Module):
    """Residual in residual dense block: x + alpha times three dense blocks."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + DENSE_SCALE * self.blocks(x)


class DRDBU(nn.Module):
    """Dense-in-residual dense blocks unit ([Qi2020], Fig. 3a): RRDBs, each of which reads x and all earlier ones.

    1 x 1 filters join what a block reads. The result is x + alpha times all blocks, joined.
    """

    def __init__(self, width: int, growth: int = 8, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RRDB(width, growth) for _ in range(blocks))
        self.joins = nn.ModuleList(conv((index + 2) * width, width, 1) for index in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, joined = [x], x
        for block, join in zip(self.blocks, self.joins, strict=True):
            outputs.append(block(joined))
            joined = join(torch.cat(outputs, dim=1))
        return x + DENSE_SCALE * joined
