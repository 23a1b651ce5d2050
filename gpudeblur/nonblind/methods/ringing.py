"""TV without its ringing: what it has more than a flat L0 picture, and is not an edge, is taken off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...numerics.arrays import Array, array_module
from ...numerics.boundary import crop, pad
from ...numerics.progress import subrange
from ..regularization import as_column, estimate_weight
from ..saturation import fill_unobserved
from ..splitting import tv_admm
from .l0 import l0
from .tv import ITERATIONS

FLAT = 0.25  # the weight of l0 for a weight of tv: what suits the same noise, by `weights.WEIGHT_RULES`, and more


def bilateral(u: Array, *, sigma: float, range_sigma: float) -> Array:
    """`u` (..., H, W) under a bilateral filter (Tomasi & Manduchi 1998, eq. 5), cut at 2 sigma.

    Each pixel becomes the mean of its neighbours, weighted by exp(-distance^2 / (2 sigma^2)) and by
    exp(-difference^2 / (2 range_sigma^2)). Outside the picture there is nothing.
    """
    xp, (h, w) = array_module(u), u.shape[-2:]
    if xp is np and u.ndim > 2:  # one by one stays in the cache, and is rounded alike in every stack
        flat = [bilateral(v, sigma=sigma, range_sigma=range_sigma) for v in u.reshape(-1, h, w)]
        return np.stack(flat).reshape(u.shape)
    reach = max(1, int(np.ceil(2 * sigma)))
    total, mass = u.copy(), xp.ones_like(u)
    for dy in range(min(reach, h - 1) + 1):
        for dx in range(-min(reach, w - 1), min(reach, w - 1) + 1):
            if dy == 0 and dx <= 0:
                continue
            # A pair of pixels weighs as much for either: each offset serves its opposite too.
            left, right = max(0, -dx), max(0, dx)
            one = (..., slice(h - dy), slice(left, w - right))
            other = (..., slice(dy, h), slice(right, w - left))
            weight = u[one] - u[other]
            weight *= weight
            weight *= -0.5 / range_sigma**2
            weight += -0.5 * (dy * dy + dx * dx) / sigma**2
            xp.exp(weight, out=weight)
            mass[one] += weight
            mass[other] += weight
            total[one] += weight * u[other]
            total[other] += weight * u[one]
    total /= mass
    return total


def ringing_suppressed(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    flat_weight: Any = None,
    suppression: float = 1.0,
    sigma: float = 3.0,
    range_sigma: float = 0.1,
    boundary: str = "unknown",
    clipped: Array | None = None,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """x_tv - suppression bilateral(x_tv - x_l0): the last step of Pan et al. 2014 (section 4, "removing artifacts").

    The L0 picture has no ringing, and no texture either. Their difference is ringing, smooth and low, and detail; the
    bilateral filter keeps the first, which is subtracted. On an exact kernel this costs some detail; it is for kernels
    that are estimated.

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1].
    kernel : (..., kh, kw), odd sides, sum 1.
    weight : of `tv`; None takes it from the picture's noise.
    flat_weight : of `l0`; None is a quarter of `weight`.
    suppression : share of the smooth difference that is taken off, from 0 (`tv` alone) to 1.
    sigma, range_sigma : of the bilateral filter, in pixels and in the picture's unit (the paper's).
    boundary : see `boundary.extend`.
    clipped : (..., H, W) bool, of `tv`; for the boundary "unknown" only.
    callback : called with the fraction done after each pass.

    Returns
    -------
    (..., H, W), not clipped.

    References
    ----------
    J. Pan, Z. Hu, Z. Su, M.-H. Yang: Deblurring text images via L0-regularized intensity and gradient prior, CVPR 2014.
    """

    if weight is None:
        weight = estimate_weight(blurred, kernel, "ringing-suppressed")
    if flat_weight is None:
        flat_weight = FLAT * array_module(blurred).asarray(weight)
    latent = tv_admm(
        blurred, kernel, as_column(weight, blurred), boundary=boundary, clipped=clipped, iterations=ITERATIONS,
        whole=True, callback=subrange(callback, 0, 0.6),
    )  # fmt: skip
    sharp = crop(latent, blurred.shape[-2:])
    unknown = boundary == "unknown"
    periodic = fill_unobserved(blurred, kernel, latent, clipped) if unknown else pad(blurred, kernel, boundary)
    flat = l0(periodic, kernel, weight=flat_weight, boundary="wrap", callback=subrange(callback, 0.6, 0.3))
    flat = crop(flat, blurred.shape[-2:])
    result = sharp - suppression * bilateral(sharp - flat, sigma=sigma, range_sigma=range_sigma)
    if callback is not None:
        callback(1.0)
    return result
