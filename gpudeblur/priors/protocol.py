"""What `latent_step` requires of a prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..images.checks import check_number
from ..numerics.arrays import Array, array_module

# Far below what matters beside |x * k - B|^2, and far above what overflows in float32.
MIN_ETA = 1e-12
# The largest eta of a prior without an attribute `eta_max`.
ETA_MAX = 2.0


class Prior(Protocol):
    """mu p(x) in the objective of the latent step, for a function p of images.

    A prior must be hashable, with equal hashes for equal values, as a frozen dataclass is: on a device, launches are
    recorded and replayed for equal options. Two attributes are optional. `replayable` is False if the launches of
    `step` must not be recorded, or if the prior keeps device arrays between steps, which would lie in memory that
    recorded launches use. `eta_max` is the largest eta, see `latent_step`.
    """

    @property
    def weight(self) -> float:
        """mu >= 0, relative to |x * k - B|^2 with weight 1, for images in [0, 1]; 0 switches the prior off."""

    def step(self, latent: Array, ratio: float, /) -> Array:
        """argmin_u |u - x|^2 + ratio p(u), or some gradient steps towards it from u = x.

        Parameters
        ----------
        latent : (..., H, W), x, periodic; not to be modified.
        ratio : mu / eta > 0. It falls from 1 / 2 as eta, the weight of |x - u|^2, grows from 2 mu to `eta_max`; it is
            larger where `eta_max` < 2 mu.

        Returns
        -------
        (..., H, W) in the same memory; the images of a stack are independent. It may be `latent` itself, and the caller
            does not keep it. On a device it should not synchronize or upload, because such a step cannot be replayed.
        """


@dataclass(frozen=True)
class Checked:
    """A prior whose contract is enforced: its numbers here, the result of `step` at each call.

    Equal, and of equal hash, for equal priors. Wrapping a `Checked` again changes nothing.

    Raises
    ------
    TypeError
        The weight or `eta_max` is not a number; from `step`, its result is not an array of the library of `latent`.
    ValueError
        The weight is negative or not finite, or `eta_max` is too small; from `step`, its result has another shape.
    """

    prior: Prior

    def __post_init__(self) -> None:
        if isinstance(self.prior, Checked):
            object.__setattr__(self, "prior", self.prior.prior)
        check_weight("prior.weight", self.weight)
        check_eta("prior.eta_max", self.eta_max)

    @property
    def weight(self) -> float:
        return self.prior.weight

    @property
    def eta_max(self) -> float:
        return getattr(self.prior, "eta_max", ETA_MAX)

    @property
    def replayable(self) -> bool:
        return is_replayable(self.prior)

    def step(self, latent: Array, ratio: float) -> Array:
        u = self.prior.step(latent, ratio)
        array_module(latent, u)
        if u.shape != latent.shape:
            name = type(self.prior).__name__
            raise ValueError(f"{name}.step must return shape {latent.shape}, its argument's, got {u.shape}")
        return u


def is_replayable(prior: Prior | None) -> bool:
    """Whether the steps of a prior may be recorded in a CUDA graph."""
    return bool(getattr(prior, "replayable", True))


def check_weight(name: str, weight: Any) -> None:
    """Refuse a mu that is negative or not finite."""
    check_number(name, weight, "non-negative", lambda mu: mu >= 0, way_out="0 switches the prior off")


def check_eta(name: str, eta: Any) -> None:
    """Refuse an eta for which eta or mu / eta is not representable in float32."""
    check_number(name, eta, f"at least {MIN_ETA:g}", lambda value: value >= MIN_ETA)
