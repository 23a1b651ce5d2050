"""What `latent_step` asks of a prior."""

from __future__ import annotations

import math
from typing import Any, Protocol

from ..numerics.arrays import Array

# Far under what counts beside |x * k - B|^2, and far over what overflows.
LEAST_ETA = 1e-12


class Prior(Protocol):
    """mu p(x) in the objective of the latent step, for a p on pictures.

    Make it hashable (a frozen dataclass is), and the same for equal values: on a device, launches are recorded and
    replayed for equal options. One whose launches must not be recorded, or that keeps arrays of a device from step to
    step (they would lie in memory that recorded launches use), has an attribute `replayable` that is False; one
    with an attribute `eta_max` has that end of eta, see `latent_step`.
    """

    @property
    def weight(self) -> float:
        """mu >= 0 beside |x * k - B|^2 with weight 1, for pictures in [0, 1]; 0 switches the prior off."""

    def step(self, latent: Array, ratio: float, /) -> Array:
        """argmin_u |u - x|^2 + ratio p(u), or some gradient steps towards it from u = x.

        Parameters
        ----------
        latent : (..., H, W), x, periodic; not to be written to.
        ratio : mu / eta > 0. It falls from 1 / 2 as eta, the weight of |x - u|^2, grows from 2 mu to its end; it is
            more where that end is under 2 mu.

        Returns
        -------
        (..., H, W) in the same memory; each picture of the stack by itself. It may be `latent`, and is not kept.
            On a device it should not wait or upload: a step that does is launched each time instead of being replayed.
        """


def is_replayable(prior: Prior | None) -> bool:
    """Whether a CUDA graph may hold the steps of a prior: unless it says that none may."""
    return bool(getattr(prior, "replayable", True))


def check(name: str, holds: bool, rule: str, value: Any, way_out: str) -> None:
    """Raises the ValueError that says so where an option of a prior does not hold to its rule."""
    if not holds:
        raise ValueError(f"{name} must {rule}, got {value!r}; {way_out}")


def check_weight(weight: Any) -> None:
    """For the weight of a prior."""
    fits = isinstance(weight, (int, float)) and weight >= 0 and math.isfinite(weight)
    check("weight", fits, "be a finite number, not negative", weight, "0 switches the prior off")


def check_eta(name: str, value: Any) -> None:
    """For an end of eta: mu / eta and eta itself must be numbers in float32."""
    fits = isinstance(value, (int, float)) and value >= LEAST_ETA
    check(name, fits, f"be a number of at least {LEAST_ETA:g}", value, "leave it out for the default")


def check_ends(of: Any) -> None:
    """For the choice of `snap`."""
    check("of", of in ("dark", "bright", "both"), "be 'dark', 'bright' or 'both'", of, "leave it out for 'dark'")
