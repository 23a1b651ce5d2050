"""How DeepDeblur is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from ..training.data import Batch, BatchMaker
from ..training.losses import charbonnier, psnr_gain, spectral, total_variation
from ..training.trainer import Loss
from .network import DeepDeblur

SPECTRAL_WEIGHT = 0.05
TOTAL_VARIATION_WEIGHT = 1e-3  # alpha of eq. 5, whose value the paper does not give


class DeepDeblurTask:
    """Charbonnier and spectral loss of the restored picture.

    `paper`: squared error and total variation instead ([WangL2017] eq. 5, without the term of a face recognizer).
    """

    shipped = "network"

    def __init__(self, network: DeepDeblur, maker: BatchMaker, *, paper: bool = False) -> None:
        self.network, self.maker, self.paper = network, maker, paper
        self.modules: Mapping[str, nn.Module] = {"network": network}

    def batch(self, index: int) -> Batch:
        return self.maker(index)

    def losses(self, batch: Batch, share: float) -> Iterator[Loss]:
        image = self.network(batch.blurred)
        if self.paper:
            loss = (image - batch.sharp).square().mean() + TOTAL_VARIATION_WEIGHT * total_variation(image)
        else:
            loss = charbonnier(image, batch.sharp) + SPECTRAL_WEIGHT * spectral(image, batch.sharp)
        yield Loss("network", loss, {"gain": psnr_gain(image.detach(), batch.blurred, batch.sharp)})

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": DeepDeblur.NAME, "network": self.network.config, "folders": folders,
            **asdict(self.maker.config), **({"loss": "paper"} if self.paper else {}),
        }  # fmt: skip
