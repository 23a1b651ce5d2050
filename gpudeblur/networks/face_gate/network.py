"""The network: the classifier's layers with fewer channels, on images of half the size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..classifier.network import Classifier

CHANNELS = (8, 16, 16, 32, 32)


class FaceGate(Classifier):
    """P(x is a face, sharp or blurred, of about the size that the networks are trained on), for gray images.

    Parameters
    ----------
    channels : five numbers, see `CHANNELS`.
    """

    NAME = "face-gate"

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__(channels)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """log(P / (1 - P)) of images (N, 1, H, W), (N,).

        Halved, by means of 2 x 2 pixels, a face is about as large as the 56 pixels that reach a number of the last map.
        """
        return super().logits(nn.functional.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False))
