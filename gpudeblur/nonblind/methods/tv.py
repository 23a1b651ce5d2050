"""Total-variation deconvolution: ADMM (split Bregman), closed forms, any boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...numerics.arrays import Array, array_module
from ..regularization import resolve_weight
from ..splitting import shrink_isotropic, tv_admm

ITERATIONS = 30


def shrink_anisotropic(gx: Array, gy: Array, beta: Any) -> tuple[Array, Array]:
    """argmin_g |g_x| + |g_y| + beta / 2 |g - v|^2: either component closer to 0 by 1 / beta."""
    xp = array_module(gx, gy)
    return gx - xp.clip(gx, -1 / beta, 1 / beta), gy - xp.clip(gy, -1 / beta, 1 / beta)


def tv(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    isotropic: bool = True,
    boundary: str = "unknown",
    clipped: Array | None = None,
    iterations: int = ITERATIONS,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |M (x * k - B)|^2 / 2 + weight sum |grad x| by ADMM; M keeps the pixels that were seen.

    With g for grad x and scaled multipliers e, a pass is (Wang et al. 2008, eq. 2.4 and 2.7; the multipliers are split
    Bregman's, Goldstein & Osher 2009, eq. 4.2-4.6)

        g = shrink(grad x + e, 1 / beta),   e += grad x - g,
        x = argmin |M (x * k - B)|^2 / 2 + weight beta / 2 |grad x - g + e|^2,

    and the last is a quotient of spectra: see `splitting.solve`, also for the unknown boundary.

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1].
    kernel : (..., kh, kw), odd sides, sum 1.
    weight : of the prior, a number or one a picture (...). Larger: less noise and ringing, less detail. None takes it
        from the picture's noise: `weights.estimate_weight`.
    isotropic : |grad x| is sqrt(x_x^2 + x_y^2); else |x_x| + |x_y|, which favours rows and columns.
    boundary : {"unknown", "liu-jia", "reflect", "edge", "taper", "wrap"}
        See `boundary.extend`. "unknown" takes four transforms a pass, the others two.
    clipped : (..., H, W) bool, where the sensor was at its top and x * k may be more than B, see `clipping`; for the
        boundary "unknown" only. Takes half as long again.
    iterations : passes.
    callback : called with the fraction done after each pass.

    Returns
    -------
    (..., H, W), not clipped.

    References
    ----------
    Y. Wang, J. Yang, W. Yin, Y. Zhang: A new alternating minimization algorithm for total variation image
    reconstruction, SIAM J. Imaging Sciences 1(3), 2008.
    T. Goldstein, S. Osher: The split Bregman method for L1-regularized problems, SIAM J. Imaging Sciences 2(2), 2009.
    """
    weight = resolve_weight(weight, blurred, kernel, "tv")
    shrink = shrink_isotropic if isotropic else shrink_anisotropic
    return tv_admm(
        blurred, kernel, weight, shrink, boundary=boundary, clipped=clipped, iterations=iterations, callback=callback
    )
