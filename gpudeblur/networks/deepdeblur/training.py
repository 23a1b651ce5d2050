"""How DeepDeblur is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from ..training.data import Batch, BatchMaker
from ..training.losses import charbonnier, spectral
from ..training.trainer import Loss
from .network import DeepDeblur

SPECTRAL_WEIGHT = 0.05


class DeepDeblurTask:
    """Charbonnier and spectral loss of the restored picture."""

    shipped = "network"

    def __init__(self, network: DeepDeblur, maker: BatchMaker) -> None:
        self.network, self.maker = network, maker
        self.modules: Mapping[str, nn.Module] = {"network": network}

    def batch(self, index: int) -> Batch:
        return self.maker(index)

    def losses(self, batch: Batch, share: float) -> Iterator[Loss]:
        image = self.network(batch.blurred)
        loss = charbonnier(image, batch.sharp) + SPECTRAL_WEIGHT * spectral(image, batch.sharp)
        with torch.no_grad():
            gain = 10 * torch.log10(
                (batch.blurred - batch.sharp).square().mean() / (image - batch.sharp).square().mean()
            )
        yield Loss("network", loss, {"gain": float(gain)})

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": DeepDeblur.NAME, "network": self.network.config, "folders": folders,
            **asdict(self.maker.config),
        }  # fmt: skip
