"""How the sketch network is trained: the generator for the kernel, then the network after it, then both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..training.data import Batch, BatchMaker
from ..training.losses import charbonnier, psnr_gain, spectral
from ..training.trainer import Loss
from .network import Sketch, luminance

SPECTRAL_WEIGHT = 0.05
KERNEL_WEIGHT = 0.1  # of sum |k - k_true| beside the loss of the sketch
PICTURE_KERNEL_WEIGHT = 0.05  # beside the loss of the picture, in each round
FIRST_ROUND_WEIGHT = 0.5  # of the losses of the first round beside the second
BETTER_KERNEL_WEIGHT = 0.5  # of the picture for a kernel that is nearer to the truth
# Shares of the run at which the stages end: the generator alone, the network that removes artifacts alone.
STAGES = (0.3, 0.4)


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
        truth = fit_side(batch.kernel, network.side)
        if share < first:
            sketch, weight = network.sketch(batch.blurred)
            kernel = network.kernel(batch.blurred, sketch, weight)
            loss = charbonnier(sketch, luminance(batch.sharp)) + KERNEL_WEIGHT * kernel_loss(kernel, truth)
            yield Loss("network", loss, {"similarity": similarity(kernel, truth)})
            return
        for parameter in network.generator.parameters():
            parameter.requires_grad_(share >= second)
        loss, figures = torch.zeros((), device=batch.sharp.device), {}
        one_step = network.one_step(batch.blurred)
        rounds = list(network.rounds(batch.blurred, one_step))
        for number, (image, kernel) in enumerate(rounds, 1):
            part = charbonnier(image, batch.sharp) + SPECTRAL_WEIGHT * spectral(image, batch.sharp)
            if not network.is_paper:
                part = part + PICTURE_KERNEL_WEIGHT * kernel_loss(kernel, truth)
            loss = loss + part * (1 if number == len(rounds) else FIRST_ROUND_WEIGHT)
            figures[f"gain_{number}"] = psnr_gain(image.detach(), batch.blurred, batch.sharp)
            figures[f"similarity_{number}"] = similarity(kernel, truth)
        if not network.is_paper:
            # Kernels from elsewhere are better than its own: between those of the last round and the true ones.
            share_of_truth = torch.linspace(0.2, 0.9, len(truth), device=truth.device)[:, None, None]
            better = torch.lerp(rounds[-1][1].detach(), truth, share_of_truth)
            sketch = luminance(rounds[-1][0]).detach()
            image, _ = network.picture(batch.blurred, one_step, better, sketch)
            loss = loss + BETTER_KERNEL_WEIGHT * charbonnier(image, batch.sharp)
        yield Loss("network", loss, figures)

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": Sketch.NAME, "network": self.network.config, "folders": folders,
            "stages": list(self.stages), **asdict(self.maker.config),
        }  # fmt: skip


def kernel_loss(kernel: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The mean of sum |k - k_true|."""
    return (kernel - truth).abs().sum(dim=(-2, -1)).mean()


def similarity(kernel: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean normalized correlation, without shifts."""
    return float(functional.cosine_similarity(kernel.detach().flatten(1), truth.flatten(1)).mean())


def fit_side(kernels: torch.Tensor, side: int) -> torch.Tensor:
    """Kernels (N, K, K) of odd sides, padded with 0 or cropped around the middle to (N, side, side)."""
    margin = (side - kernels.shape[-1]) // 2
    return functional.pad(kernels, (margin,) * 4)
