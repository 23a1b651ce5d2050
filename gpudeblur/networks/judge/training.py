"""How the judge is trained: to rank the candidate kernels of one image as their restorations rank.

Groups of candidates are files that `python -m bench.training.judge` makes, since they come from the two-step method
itself. A loss compares candidates of one group alone; only the small second loss asks whether a kernel is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...images.checks import check_count, check_number
from ..training.pictures import Pictures
from ..training.trainer import Loss
from ..weights import pack, unpack
from .network import Judge

SUFFIX = ".groups.safetensors"
MIN_DIFFERENCE = math.log(1.2)  # of the logarithms of the error ratios: closer candidates are not compared
MAX_LOG_RATIO = math.log(10)  # errors beyond this ratio are equally wrong
RIGHT = math.log(2)  # up to this logarithm a kernel is right
RIGHT_WEIGHT, CHOICE_WEIGHT = 0.3, 1.0
CONTRAST = 0.9  # crops are scaled by a factor between this and its inverse


class Groups(NamedTuple):
    """Groups of C candidate kernels of n images of one size.

    Attributes
    ----------
    blurred : (n, H, W) float16, divided by the noise of the image.
    latent, residual : (n, C, H, W) float16, see `Judge.forward`.
    log_ratio : (n, C), the logarithm of the error ratio of a restoration with the kernel.
    score : (n, C), what the selection without the judge makes of the kernel.
    """

    blurred: torch.Tensor
    latent: torch.Tensor
    residual: torch.Tensor
    log_ratio: torch.Tensor
    score: torch.Tensor

    def to(self, device: torch.device | str) -> Groups:
        return Groups(*(tensor.to(device) for tensor in self))

    def write(self, path: Path) -> None:
        Path(path).write_bytes(pack(self._asdict()))

    @classmethod
    def read(cls, path: Path) -> Groups:
        """Of a file; a ValueError where it holds something else."""
        tensors, _ = unpack(path)
        if set(tensors) != set(cls._fields):
            raise ValueError(f"{path} must hold groups of candidates, got {sorted(tensors)}; see bench.training.judge")
        return cls(**tensors)


def read_groups(folder: Path) -> Pictures:
    """All groups of a folder, `Groups` each; those of other files are not read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"folder of groups {folder} is not a folder; check its name")
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise ValueError(f"folder {folder} must hold groups (*{SUFFIX}), got none; see python -m bench.training.judge")
    return Pictures(folder, [Groups.read(file) for file in files], [])


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How groups are drawn.

    Attributes
    ----------
    seed : of all random numbers.
    batch : groups per step, of at most `parts` files.
    parts : files per step; the groups of one file have images of one size.
    candidates : of each group, drawn anew each time.
    scored : weight of the selection's own score beside the logit, so that the judge learns what that one misses.
    """

    seed: int = 0
    batch: int = 12
    parts: int = 4
    candidates: int = 12
    scored: float = 10.0

    def __post_init__(self) -> None:
        for name, minimum in (("batch", 1), ("parts", 1), ("candidates", 2)):
            check_count(name, getattr(self, name), minimum=minimum)
        check_number("scored", self.scored, "at least 0", lambda value: value >= 0)


class JudgeTask:
    """The ranking loss. The figures are `excess_ratio` of the score with the logit, and of the score alone.

    Parameters
    ----------
    groups : each of one size of images, on the device.
    source : names of their folders.
    """

    shipped = "network"

    def __init__(self, network: Judge, groups: Sequence[Groups], config: JudgeConfig, source: str = "") -> None:
        self.network, self.groups, self.config, self.source = network, list(groups), config, source
        self.modules: Mapping[str, nn.Module] = {"network": network}
        counts = np.array([len(group.blurred) for group in self.groups], float)
        self.shares = counts / counts.sum()

    def batch(self, index: int) -> list[Groups]:
        """Groups of some files, with random candidates, flips, contrast and sign."""
        config, rng = self.config, np.random.default_rng((self.config.seed, index))
        parts = rng.choice(len(self.groups), min(config.parts, len(self.groups)), p=self.shares, replace=False)
        return [self._draw(self.groups[part], -(-config.batch // len(parts)), rng) for part in parts]

    def _draw(self, groups: Groups, count: int, rng: np.random.Generator) -> Groups:
        device, (n, c) = groups.blurred.device, groups.log_ratio.shape
        rows = torch.from_numpy(rng.choice(n, min(count, n), replace=False)).to(device)[:, None]
        order = np.argsort(rng.random((len(rows), c)), axis=1)[:, : self.config.candidates]
        columns = torch.from_numpy(order).to(device)
        factor = CONTRAST ** rng.uniform(-1, 1) * (1 if rng.random() < 0.5 else -1)
        turn, flips = rng.random() < 0.5, [axis for axis in (-2, -1) if rng.random() < 0.5]

        def seen(images: torch.Tensor) -> torch.Tensor:
            images = factor * images.float()
            return (images.transpose(-2, -1) if turn else images).flip(flips).contiguous()

        return Groups(
            seen(groups.blurred[rows[:, 0]]),
            seen(groups.latent[rows, columns]),
            seen(groups.residual[rows, columns]),
            groups.log_ratio[rows, columns],
            groups.score[rows, columns],
        )

    def losses(self, batch: list[Groups], share: float) -> Iterator[Loss]:
        figures = torch.stack([self._figures(groups) for groups in batch]).mean(dim=0)
        excess, alone = figures.detach()[1:].tolist()
        yield Loss("network", figures[0], {"excess": excess, "excess of the score alone": alone})

    def _figures(self, groups: Groups) -> torch.Tensor:
        """(loss, excess with the logit, without it)."""
        logit = logits(self.network, groups)
        score = logit + self.config.scored * groups.score
        right = functional.binary_cross_entropy_with_logits(logit, (groups.log_ratio <= RIGHT).float())
        excess = [excess_ratio(choice, groups.log_ratio) for choice in (score.detach(), groups.score)]
        return torch.stack([ranking_loss(score, groups.log_ratio) + RIGHT_WEIGHT * right, *excess])

    def describe(self) -> dict[str, Any]:
        count = sum(len(groups.blurred) for groups in self.groups)
        return {
            "architecture": Judge.NAME, "network": self.network.config, "groups": count, "source": self.source,
            **asdict(self.config),
        }  # fmt: skip


def logits(network: Judge, groups: Groups) -> torch.Tensor:
    """(n, C)."""
    n, c, h, w = groups.latent.shape
    blurred = groups.blurred[:, None].expand(n, c, h, w).reshape(-1, h, w)
    result: torch.Tensor = network(groups.latent.reshape(-1, h, w), blurred, groups.residual.reshape(-1, h, w))
    return result.reshape(n, c)


def ranking_loss(score: torch.Tensor, log_ratio: torch.Tensor) -> torch.Tensor:
    """How far scores (n, C) are from the order of the error ratios: pairs, and the error that a soft choice expects.

    Pairs: mean of |difference of the logarithms| log(1 + exp(-difference of the scores)). Choice: the mean logarithm
    under softmax(score), over the least one.
    """
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO)
    better = ratio[:, None, :] - ratio[:, :, None]  # > 0 where the first index has less error
    weight = better * (better > MIN_DIFFERENCE)
    pairs = (weight * functional.softplus(score[:, None, :] - score[:, :, None])).sum() / weight.sum().clamp_min(1)
    expected = (torch.softmax(score, dim=1) * ratio).sum(dim=1) - ratio.amin(dim=1)
    return pairs + CHOICE_WEIGHT * expected.mean()


def excess_ratio(score: torch.Tensor, log_ratio: torch.Tensor) -> torch.Tensor:
    """Mean logarithm, cut at `MAX_LOG_RATIO`, of the error ratio of the best score over the least one."""
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO)
    chosen = ratio.gather(1, score.argmax(dim=1, keepdim=True))[:, 0]
    return (chosen - ratio.amin(dim=1)).mean()
