"""The enhancement GAN of [Qi2020]: a generator of two stages, and a critic of patches that only training needs.

The paper's generator is `EnhancementGAN.paper()`. The default, which ships, has the same two stages without
normalization and at half size, so that a CPU can train it: the first is the DeepDeblur that ships, as it is, the
second, dense blocks and a small U-Net, adds to its picture. Its file holds the second stage alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..blocks import DRDBU, RRRB, UNet, channels_last, conv, pad_to_multiple

LEVELS = 3  # halvings of the size in the paper's encoders
CRITIC_SLOPE = 0.2  # of leaky ReLUs below 0


def normalized_relu(x: torch.Tensor) -> torch.Tensor:
    return functional.relu(functional.instance_norm(x))


class ResBlock(nn.Module):
    """x + three times conv, instance norm, ReLU ([Qi2020], Fig. 3c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filters = nn.ModuleList(conv(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for filters in self.filters:
            y = normalized_relu(filters(y))
        return x + y


class EncoderDecoder(nn.Module):
    """Three levels of stride 2 that double the channels, and back by deconvolutions; skips are added.

    Parameters
    ----------
    width : channels at full size.
    block : the blocks of a level from its channels, between its convolution and its ResBlock.
    """

    def __init__(self, width: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS + 1)]
        self.downs, self.encoders, self.decoders, self.ups = (nn.ModuleList() for _ in range(4))
        for large, small in pairwise(widths):
            self.downs.append(conv(large, small, stride=2))
            self.encoders.append(nn.Sequential(block(small), ResBlock(small)))
            self.decoders.append(nn.Sequential(ResBlock(small), block(small)))
            self.ups.append(nn.ConvTranspose2d(small, large, 4, stride=2, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down, encoder in zip(self.downs, self.encoders, strict=True):
            skips.append(x)
            x = encoder(normalized_relu(down(x)))
        for up, decoder in zip(reversed(self.ups), reversed(self.decoders), strict=True):
            x = normalized_relu(up(decoder(x))) + skips.pop()
        return x


class RecurrentTrunk(nn.Module):
    """The paper's generator, for pictures in [-1, 1] ([Qi2020], Fig. 2a).

    conv - encoder and decoder of RRRBs - DRDBU - encoder and decoder of ResBlocks - conv - tanh. The text leaves open
    the number of levels (here 3), the place of norm and ReLU (after every convolution outside of the DRDBU, but for the
    last), and how skips and the DRDBU's dense connections join (added; 1 x 1 filters).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = conv(3, width)
        self.first = EncoderDecoder(width, lambda n: nn.Sequential(*(RRRB(n, normalized_relu) for _ in range(3))))
        self.dense = DRDBU(width)
        self.second = EncoderDecoder(width, ResBlock)
        self.tail = conv(width, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        h, w = images.shape[-2:]
        x = pad_to_multiple(images, 2**LEVELS).contiguous(memory_format=torch.channels_last)
        x = self.first(normalized_relu(self.head(x)))
        return torch.tanh(self.tail(self.second(self.dense(x))))[..., :h, :w]


class Enhancement(nn.Module):
    """What the default's second stage adds to the first one's picture; 0 at the beginning.

    Pixel unshuffle by 2 - conv - DRDBU - shuffle - `UNet`, of the blurred picture and the first stage's.
    """

    def __init__(self, dense: int, growth: int, widths: tuple[int, ...], counts: tuple[int, ...]) -> None:
        super().__init__()
        self.entry = conv(24, dense)
        self.dense = DRDBU(dense, growth)
        self.unet = UNet(dense // 4, 3, widths, counts)

    def forward(self, blurred: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        h, w = image.shape[-2:]
        x = functional.pixel_unshuffle(pad_to_multiple(torch.cat([blurred, image], dim=1)), 2)
        x = self.dense(self.entry(x.contiguous(memory_format=torch.channels_last)))
        return self.unet(functional.pixel_shuffle(x, 2))[..., :h, :w]


class EnhancementGAN(nn.Module):
    """The generator, for RGB pictures (N, 3, H, W) in [0, 1], sides from 16 pixels.

    The default is y = B + trunk(B), x = y + enhancement(B, y).

    Attributes
    ----------
    shared : {prefix of tensors: name of the network whose they are}; they are not in the file of weights.

    Parameters
    ----------
    trunk : {"unet", "recurrent"}
        The default, which is not trained, or the paper's, which takes `widths` alone.
    widths : channels: three for "unet", one for "recurrent".
    counts : blocks of the first stage's U-Net, five.
    dense, growth : channels of the DRDBU, a multiple of 4, and those that each of its convolutions adds.
    enhancement_widths, enhancement_counts : channels and blocks of the second stage's U-Net, three and five.
    """

    NAME = "enhancement-gan"

    def __init__(
        self,
        trunk: str = "unet",
        widths: tuple[int, ...] = (32, 64, 96),
        counts: tuple[int, ...] = (2, 2, 3, 2, 2),
        dense: int = 16,
        growth: int = 8,
        enhancement_widths: tuple[int, ...] = (16, 24, 32),
        enhancement_counts: tuple[int, ...] = (1, 1, 1, 1, 1),
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"trunk": trunk, "widths": list(widths)}
        self.shared = {} if trunk == "recurrent" else {"trunk.": "deepdeblur"}
        self.trunk: nn.Module
        self.enhancement: Enhancement | None = None
        if trunk == "recurrent":
            self.trunk = RecurrentTrunk(*widths)
        else:
            self.config |= {
                "counts": list(counts), "dense": dense, "growth": growth,
                "enhancement_widths": list(enhancement_widths), "enhancement_counts": list(enhancement_counts),
            }  # fmt: skip
            self.trunk = UNet(3, 3, widths, counts).requires_grad_(False)
            self.enhancement = Enhancement(dense, growth, enhancement_widths, enhancement_counts)
        channels_last(self)

    @classmethod
    def paper(cls) -> EnhancementGAN:
        """32 channels at full size, three RRRBs a level; 35 million weights."""
        return cls("recurrent", (32,))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.enhancement is None:
            return (self.trunk(2 * images - 1).to(images.dtype) + 1) / 2
        image = images + self.trunk(images - 0.5)
        return image + self.enhancement(images - 0.5, image - 0.5)


class Critic(nn.Module):
    """Scores (N, 1, h, w) of patches of 70 pixels, larger for sharp pictures ([Qi2020], Fig. 2b).

    Two convolutions 4 x 4 of stride 2 after the first, of stride 2 too, then two of stride 1; instance norm after each
    but the first and the last. Sides from 24 pixels. Scores are unbounded: the paper's sigmoid contradicts its loss,
    eq. 5, which is a difference of scores.

    Parameters
    ----------
    width : channels of the first convolution; 2, 4 and 8 times as many follow.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"width": width}
        channels = [3, width, 2 * width, 4 * width, 8 * width, 1]
        self.filters = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 4, stride, padding=1)
            for inputs, outputs, stride in zip(channels, channels[1:], (2, 2, 2, 1, 1), strict=False)
        )
        channels_last(self)

    @classmethod
    def paper(cls) -> Critic:
        """64 to 512 channels, 2.8 million weights."""
        return cls(64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first, *middle, last = self.filters
        x = functional.leaky_relu(first(2 * images - 1), CRITIC_SLOPE)
        for filters in middle:
            x = functional.leaky_relu(functional.instance_norm(filters(x)), CRITIC_SLOPE)
        scores: torch.Tensor = last(x)
        return scores
