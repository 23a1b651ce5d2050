"""The network: the classifier's layers with fewer channels."""

from __future__ import annotations

from collections.abc import Sequence

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
