"""How the enhancement GAN is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...images.checks import check_choice, check_count, check_number
from ..blocks import initialized
from ..training.data import Batch, BatchMaker
from ..training.face_features import FaceFeatures, loss_on_faces, perceptual_loss
from ..training.losses import charbonnier, critic_loss, generator_loss, gradient_penalty, psnr_gain
from ..training.trainer import Loss
from .network import Critic, EnhancementGAN

POSITIONS_SEED = 1_000_033  # keeps the positions of the penalty apart from the random numbers of a batch

PerceptualLoss = Callable[[torch.Tensor, Batch], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class EnhancementConfig:
    """The losses of [Qi2020] eq. 2 and their weights.

    Attributes
    ----------
    content : "charbonnier", or the paper's "mse", of pictures in [-1, 1].
    content_weight, perceptual_weight, adversarial_weight : alpha, beta and sigma of eq. 2.
    adversarial_from : share of the run after which the critic is trained and its scores count. An untrained generator
        would learn to please the critic with pictures that are not of the blurred ones.
    penalty_weight : lambda of eq. 5, with the value of its source; the paper does not give its own.
    penalty_every : steps of the critic between penalties, each of which costs twice as much as the scores. Four times
        the weight on every fourth step holds the critic's gradient no better, and the critic learns more slowly.
    """

    content: Literal["charbonnier", "mse"] = "charbonnier"
    content_weight: float = 1.0
    perceptual_weight: float = 0.15
    adversarial_weight: float = 0.002
    adversarial_from: float = 0.6
    penalty_weight: float = 10.0
    penalty_every: int = 4

    def __post_init__(self) -> None:
        check_choice("content", self.content, ("charbonnier", "mse"))
        for name in ("content_weight", "perceptual_weight", "adversarial_weight", "penalty_weight"):
            check_number(name, getattr(self, name), "at least 0", lambda value: value >= 0)
        check_number("adversarial_from", self.adversarial_from, "in [0, 1]", lambda value: 0 <= value <= 1)
        check_count("penalty_every", self.penalty_every)

    @classmethod
    def paper(cls) -> EnhancementConfig:
        """Weights 1, 10 and 1, all losses from the beginning; for Adam, rate 1e-4, betas (0.5, 0.999)."""
        return cls(content="mse", perceptual_weight=10, adversarial_weight=1, adversarial_from=0, penalty_every=1)


class EnhancementTask:
    """Generator and critic in turn ([Qi2020] eq. 2-5), one step each a batch.

    Parameters
    ----------
    perceptual : the loss of eq. 4, of (image, batch), for which the paper takes features of VGG-19; None: left out.
    """

    shipped = "network"

    def __init__(
        self,
        network: EnhancementGAN,
        critic: Critic,
        maker: BatchMaker,
        config: EnhancementConfig | None = None,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        self.network, self.critic, self.maker = network, critic, maker
        self.config, self.perceptual = config or EnhancementConfig(), perceptual
        self.modules: Mapping[str, nn.Module] = {"network": network, "critic": critic}

    def batch(self, index: int) -> tuple[int, Batch]:
        """The index comes along: whether the critic is penalized, and where, depends on it."""
        return index, self.maker(index)

    def losses(self, batch: tuple[int, Batch], share: float) -> Iterator[Loss]:
        index, pair = batch
        image = self.network(pair.blurred)
        adversarial = share >= self.config.adversarial_from
        yield self._network_loss(image, pair, adversarial)
        if adversarial:
            yield self._critic_loss(index, image.detach(), pair.sharp)

    def _network_loss(self, image: torch.Tensor, pair: Batch, adversarial: bool) -> Loss:
        """[Qi2020] eq. 2."""
        config = self.config
        content = content_loss(image, pair.sharp, config.content)
        loss = config.content_weight * content
        figures = {"content": float(content.detach()), "gain": psnr_gain(image.detach(), pair.blurred, pair.sharp)}
        if self.perceptual is not None:
            perceptual = self.perceptual(image, pair)
            loss = loss + config.perceptual_weight * perceptual
            figures["perceptual"] = float(perceptual.detach())
        if adversarial:
            # Without gradients for the critic's weights, which make a third of its backward pass.
            self.critic.requires_grad_(False)
            loss = loss + config.adversarial_weight * generator_loss(self.critic(image))
            self.critic.requires_grad_(True)
        return Loss("network", loss, figures)

    def _critic_loss(self, index: int, image: torch.Tensor, sharp: torch.Tensor) -> Loss:
        """[Qi2020] eq. 5, negated. `distance` is how far apart the critic holds sharp and restored pictures."""
        config = self.config
        sharp_scores, restored_scores = self.critic(torch.cat([sharp, image])).chunk(2)
        loss = critic_loss(sharp_scores, restored_scores)
        figures = {"distance": -float(loss.detach())}
        if index % config.penalty_every == 0:
            rng = np.random.default_rng((self.maker.config.seed, index, POSITIONS_SEED))
            positions = torch.from_numpy(rng.random(len(sharp), np.float32)).to(sharp.device)
            penalty = gradient_penalty(self.critic, sharp, image, positions)
            loss = loss + config.penalty_weight * penalty
            figures["penalty"] = float(penalty.detach())
        # Clipped, the few steps with a penalty would count no more than the others, and the critic diverges.
        return Loss("critic", loss, figures, clipped=False)

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": EnhancementGAN.NAME, "network": self.network.config, "critic": self.critic.config,
            "folders": folders, "perceptual": self.perceptual is not None,
            **asdict(self.maker.config), **asdict(self.config),
        }  # fmt: skip


def content_loss(image: torch.Tensor, sharp: torch.Tensor, kind: str) -> torch.Tensor:
    """Charbonnier, or [Qi2020] eq. 3 as the text has it, the mean squared error of pictures in [-1, 1]."""
    return charbonnier(image, sharp) if kind == "charbonnier" else (2 * (image - sharp)).square().mean()


def make_task(network: EnhancementGAN, maker: BatchMaker, *, faces: FaceFeatures | None = None) -> EnhancementTask:
    """The task of the paper's network, or of the default; `faces`: the recognizer of the perceptual loss."""
    paper = network.enhancement is None
    critic = initialized(Critic.paper if paper else Critic, maker.config.seed)
    perceptual = None if faces is None else functools.partial(_perceptual, faces)
    return EnhancementTask(network, critic, maker, EnhancementConfig.paper() if paper else None, perceptual)


def _perceptual(faces: FaceFeatures, image: torch.Tensor, batch: Batch) -> torch.Tensor:
    return loss_on_faces(perceptual_loss, faces, image, batch)
