"""Total-variation deconvolution: ADMM (split Bregman), closed forms, any boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...numerics.arrays import Array, array_module
from ..regularization import resolve_weight
from ..splitting import TV_RULE, shrink_isotropic, tv_admm

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
    saturated: Array | None = None,
    mask: Any = None,
    iterations: int = ITERATIONS,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |M (x * k - B)|^2 / 2 + weight sum |grad x| by ADMM; M selects the observed, valid pixels.

    With g for grad x and scaled multipliers e, a pass is ([WangY2008] eq. 2.4 and 2.7; the multipliers are those of
    split Bregman, [Goldstein2009] eq. 4.2-4.6)

        g = shrink(grad x + e, 1 / beta),   e += grad x - g,
        x = argmin |M (x * k - B)|^2 / 2 + weight beta / 2 |grad x - g + e|^2,

    where the last is a quotient of spectra: see `splitting.solve`, also for the unknown boundary.

    Parameters
    ----------
    blurred, kernel, weight, boundary, saturated, mask, callback : common to all methods, see
        `help(gpudeblur.nonblind)`.
    isotropic : |grad x| is sqrt(x_x^2 + x_y^2); else |x_x| + |x_y|, which favors rows and columns: kept for comparison,
        it is best in no row of the benches.
    iterations : passes, each of two transforms, or four for the boundary "unknown". `saturated` adds half to the time.
    """
    weight = resolve_weight(weight, blurred, kernel, TV_RULE, mask)
    shrink = shrink_isotropic if isotropic else shrink_anisotropic
    return tv_admm(
        blurred, kernel, weight, shrink, boundary=boundary, saturated=saturated, mask=mask,
        iterations=iterations, callback=callback,
    )  # fmt: skip
