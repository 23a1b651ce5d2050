"""How DeepDeblur is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from ..training.data import Batch, BatchMaker
from ..training.face_features import FaceFeatures, facial_loss, loss_on_faces
from ..training.losses import charbonnier, psnr_gain, spectral, total_variation
from ..training.trainer import Loss
from .network import DeepDeblur

SPECTRAL_WEIGHT = 0.05
TOTAL_VARIATION_WEIGHT = 1e-3  # alpha of eq. 5, whose value the paper does not give
FACIAL_WEIGHT = 1e-3  # beta of eq. 5: a tenth to a third of the gradient of the other losses


class DeepDeblurTask:
    """Charbonnier and spectral loss of the restored picture, and that of a face recognizer if there is one.

    The paper's network has squared error and total variation instead of the first two ([WangL2017] eq. 5).
    """

    shipped = "network"

    def __init__(self, network: DeepDeblur, maker: BatchMaker, *, faces: FaceFeatures | None = None) -> None:
        self.network, self.maker, self.faces = network, maker, faces
        self.modules: Mapping[str, nn.Module] = {"network": network}

    def batch(self, index: int) -> Batch:
        return self.maker(index)

    def losses(self, batch: Batch, share: float) -> Iterator[Loss]:
        image = self.network(batch.blurred)
        if self.network.is_paper:
            loss = (image - batch.sharp).square().mean() + TOTAL_VARIATION_WEIGHT * total_variation(image)
        else:
            loss = charbonnier(image, batch.sharp) + SPECTRAL_WEIGHT * spectral(image, batch.sharp)
        figures = {"gain": psnr_gain(image.detach(), batch.blurred, batch.sharp)}
        if self.faces is not None:
            facial = loss_on_faces(facial_loss, self.faces, image, batch)
            loss, figures["facial"] = loss + FACIAL_WEIGHT * facial, float(facial.detach())
        yield Loss("network", loss, figures)

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": DeepDeblur.NAME, "network": self.network.config, "folders": folders,
            **asdict(self.maker.config), **({"loss": "paper"} if self.network.is_paper else {}),
            **({"facial": FACIAL_WEIGHT} if self.faces is not None else {}),
        }  # fmt: skip
