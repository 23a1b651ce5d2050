"""The L0 intensity prior [Pan2014] for text: few pixels are neither paper nor ink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..images.checks import check_choice
from ..numerics.arrays import Array, array_module
from .protocol import check_weight

Ends = Literal["dark", "bright", "both"]
ENDS: tuple[str, ...] = get_args(Ends)


@dataclass(frozen=True)
class L0Intensity:
    """p(x) = |x|_0, the number of pixels that are not 0.

    For text only, best with "both" if ink and paper are within about 0.1 of 0 and 1. It makes kernels of photographs
    worse.

    Attributes
    ----------
    weight : mu, see `Prior`; about lambda, the weight of the gradients ([Pan2014]: both 4e-3).
    which : "dark": |x|_0; "bright": |1 - x|_0; "both": the number of pixels that are neither 0 nor 1.

    References
    ----------
    [Pan2014] J. Pan, Z. Hu, Z. Su, M.-H. Yang: Deblurring text images via L0-regularized intensity and gradient prior,
    CVPR 2014.
    """

    weight: float = 8e-3
    which: Ends = "dark"

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        check_choice("which", self.which, ENDS)

    def step(self, latent: Array, ratio: float) -> Array:
        """argmin_u |u - x|^2 + ratio p(u), exactly, by `threshold_to_ends`."""
        return threshold_to_ends(latent, ratio, self.which)


def threshold_to_ends(
    latent: Array, ratio: float, which: Ends, dark: Array | bool = True, bright: Array | bool = True
) -> Array:
    """0 where x^2 < ratio and 1 where (1 - x)^2 < ratio, x elsewhere: a hard threshold at both ends.

    Parameters
    ----------
    latent : (..., H, W) float, x.
    ratio : mu / eta.
    which : "dark": 0 only; "bright": 1 only; "both": the nearer end.
    dark, bright : (..., H, W) bool, the pixels that may become 0 and 1.
    """
    xp = array_module(latent)
    u = latent
    if which != "bright":
        near = latent * latent < ratio
        u = xp.where(near & (dark if which == "dark" else dark & (latent < 0.5)), 0, u)
    if which != "dark":
        complement = 1 - latent
        near = complement * complement < ratio
        u = xp.where(near & (bright if which == "bright" else bright & (latent >= 0.5)), 1, u)
    return u
