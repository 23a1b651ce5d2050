"""The two networks of [Lin2020] as in its Fig. 3: the sketch generator, and the network that removes artifacts."""

from __future__ import annotations

import torch
from torch import nn

from ..blocks import conv, pad_to_multiple


def layer(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, instance normalization, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2)
    return nn.Sequential(convolution, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU())


def upsampling(inputs: int, outputs: int) -> nn.Sequential:
    """Transposed convolution by 2, instance normalization, ReLU."""
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
    return nn.Sequential(convolution, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU())


class NormalizedResidual(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.InstanceNorm2d(width, affine=True))
        self.layers = nn.Sequential(layer(width, width), second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class SketchGenerator(nn.Module):
    """s = G(y): 10 convolutions, 2 transposed ones, 6 residual blocks, 2 skip connections; (N, 1, H, W)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        w = width
        self.large = layer(3, w, 7)
        self.middle = nn.Sequential(layer(w, 2 * w, stride=2), layer(2 * w, 2 * w))
        self.small = nn.Sequential(
            layer(2 * w, 4 * w, stride=2), layer(4 * w, 4 * w), *(NormalizedResidual(4 * w) for _ in range(6))
        )
        self.up_middle = upsampling(4 * w, 2 * w)
        self.join_middle = nn.Sequential(layer(4 * w, 2 * w), layer(2 * w, 2 * w))
        self.up_large = upsampling(2 * w, w)
        self.join_large = nn.Sequential(layer(2 * w, w), layer(w, w))
        self.exit = nn.Conv2d(w, 1, 7, padding=3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        h, w = images.shape[-2:]
        large = self.large(pad_to_multiple(images))
        middle = self.middle(large)
        x = self.up_middle(self.small(middle))
        x = self.up_large(self.join_middle(torch.cat([x, middle], dim=1)))
        return self.exit(self.join_large(torch.cat([x, large], dim=1)))[..., :h, :w]


class PlainResidual(nn.Module):
    """x + conv(prelu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(width, width), nn.PReLU(), conv(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class ArtifactNetwork(nn.Module):
    """What is added to x0, from (x0, s): 7 convolutions, a transposed one, 5 residual blocks; PReLU after each."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        w = width
        self.entry = nn.Sequential(conv(4, w), nn.PReLU(), conv(w, w), nn.PReLU())
        self.down = nn.Sequential(conv(w, 2 * w, stride=2), nn.PReLU())
        self.blocks = nn.Sequential(*(PlainResidual(2 * w) for _ in range(5)), conv(2 * w, 2 * w))
        self.up = nn.Sequential(nn.ConvTranspose2d(2 * w, w, 4, 2, 1), nn.PReLU())
        self.exit = nn.Sequential(conv(w, w), nn.PReLU(), conv(w, w), nn.PReLU(), conv(w, 3, zero=True))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        h, w = images.shape[-2:]
        x = self.down(self.entry(pad_to_multiple(images)))
        return self.exit(self.up(x + self.blocks(x)))[..., :h, :w]
