"""How the sketch network is trained: the generator for the kernel, then the network after it, then both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..training.data import Batch, BatchMaker
from ..training.losses import charbonnier, spectral
from ..training.trainer import Loss
from .network import Sketch, luminance

SPECTRAL_WEIGHT = 0.05
# Of sum |k - k_true| beside the pictures' losses: alone with the sketch, and in the last stage.
KERNEL_WEIGHT, LAST_KERNEL_WEIGHT = 0.1, 0.02
# Shares of the run at which the stages end: the generator alone, the network that removes artifacts alone.
STAGES = (0.6, 0.85)


class SketchTask:
    """Three stages, as [Lin2020] have; the loss of the kernel, which the generator is for, is not theirs.

    Parameters
    ----------
    stages : shares of the run at which the first and the second stage end.
    """

    shipped = "network"

    def __init__(self, network: Sketch, maker: BatchMaker, stages: tuple[float, float] = STAGES) -> None:
        self.network, self.maker, self.stages = network, maker, stages
        self.modules: Mapping[str, nn.Module] = {"network": network}

    def batch(self, index: int) -> Batch:
        return self.maker(index)

    def losses(self, batch: Batch, share: float) -> Iterator[Loss]:
        network, (first, second) = self.network, self.stages
        with torch.set_grad_enabled(share < first or share >= second):
            sketch, weight = network.sketch(batch.blurred)
            kernel = network.kernel(batch.blurred, sketch, weight)
        truth = fit_side(batch.kernel, network.side)
        kernel_loss = (kernel - truth).abs().sum(dim=(-2, -1)).mean()
        similarity = functional.cosine_similarity(kernel.flatten(1), truth.flatten(1)).mean()
        figures = {"similarity": float(similarity.detach())}
        if share < first:
            loss = charbonnier(sketch, luminance(batch.sharp)) + KERNEL_WEIGHT * kernel_loss
        else:
            image = network.picture(batch.blurred, kernel, sketch)
            loss = charbonnier(image, batch.sharp) + SPECTRAL_WEIGHT * spectral(image, batch.sharp)
            if share >= second:
                loss = loss + LAST_KERNEL_WEIGHT * kernel_loss
            errors = [(picture - batch.sharp).square().mean() for picture in (batch.blurred, image.detach())]
            figures["gain"] = float(10 * torch.log10(errors[0] / errors[1]))
        yield Loss("network", loss, figures)

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": Sketch.NAME, "network": self.network.config, "folders": folders,
            "stages": list(self.stages), **asdict(self.maker.config),
        }  # fmt: skip


def fit_side(kernels: torch.Tensor, side: int) -> torch.Tensor:
    """Kernels (N, K, K) of odd sides, padded with 0 or cropped around the middle to (N, side, side)."""
    margin = (side - kernels.shape[-1]) // 2
    return functional.pad(kernels, (margin,) * 4)
