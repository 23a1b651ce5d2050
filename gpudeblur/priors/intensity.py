"""L0 intensity prior of Pan et al. 2014, for text: few pixels are neither paper nor ink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..numerics.arrays import Array, array_module
from .protocol import check_ends, check_weight

Ends = Literal["dark", "bright", "both"]


@dataclass(frozen=True)
class L0Intensity:
    """p(x) = |x|_0, the number of pixels that are not 0.

    For pages alone, and best with "both", where ink and paper are within about 0.1 of 0 and 1: kernels of photographs
    are worse for it.

    Attributes
    ----------
    weight : mu, see `Prior`; about lambda, the weight of the gradients (Pan et al. 2014: both 4e-3).
    of : "dark": |x|_0. "bright": |1 - x|_0. "both": pixels that are neither 0 nor 1.

    References
    ----------
    J. Pan, Z. Hu, Z. Su, M.-H. Yang: Deblurring text images via L0-regularized intensity and gradient prior, CVPR 2014.
    """

    weight: float = 8e-3
    of: Ends = "dark"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_ends(self.of)

    def step(self, latent: Array, ratio: float) -> Array:
        """argmin_u |u - x|^2 + ratio p(u), exactly: `snap`."""
        return threshold_to_ends(latent, ratio, self.of)


def threshold_to_ends(
    latent: Array, ratio: float, of: Ends, dark: Array | bool = True, bright: Array | bool = True
) -> Array:
    """0 where x^2 < ratio and 1 where (1 - x)^2 < ratio, x elsewhere: a hard threshold at either end.

    Parameters
    ----------
    latent : (..., H, W) float, x.
    ratio : mu / eta.
    of : "dark", "bright", or "both", where a pixel that is near both goes to the nearer.
    dark, bright : (..., H, W) bool, the pixels that may become 0, and 1.
    """
    xp = array_module(latent)
    u = latent
    if of != "bright":
        near = latent * latent < ratio
        u = xp.where(near & (dark if of == "dark" else dark & (latent < 0.5)), 0, u)
    if of != "dark":
        rest = 1 - latent
        near = rest * rest < ratio
        u = xp.where(near & (bright if of == "bright" else bright & (latent >= 0.5)), 1, u)
    return u
