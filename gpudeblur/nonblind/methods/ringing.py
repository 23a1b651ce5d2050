"""TV deconvolution with its ringing removed: the smooth part of its difference from an L0 result is subtracted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...numerics.arrays import Array, array_module
from ...numerics.boundary import crop, pad
from ...numerics.progress import subrange
from ..regularization import as_column, estimate_weight
from ..saturation import fill_unobserved
from ..splitting import TV_RULE, tv_admm
from .l0 import l0
from .tv import ITERATIONS

FLAT_WEIGHT_RATIO = 0.25  # default `flat_weight` / `weight`: somewhat more than the rules give for the same noise


def bilateral(u: Array, *, sigma: float, range_sigma: float) -> Array:
    """`u` (..., H, W) after a bilateral filter ([Tomasi1998] eq. 5), cut off at 2 sigma.

    Each pixel becomes the mean of its neighbors, weighted by exp(-distance^2 / (2 sigma^2)) and by
    exp(-difference^2 / (2 range_sigma^2)). Only pixels of the image are neighbors.
    """
    xp, (h, w) = array_module(u), u.shape[-2:]
    if xp is np and u.ndim > 2:  # image by image: stays in the cache, and rounds alike in every stack
        filtered = [bilateral(v, sigma=sigma, range_sigma=range_sigma) for v in u.reshape(-1, h, w)]
        return np.stack(filtered).reshape(u.shape)
    radius = max(1, int(np.ceil(2 * sigma)))
    total, mass = u.copy(), xp.ones_like(u)
    for dy in range(min(radius, h - 1) + 1):
        for dx in range(-min(radius, w - 1), min(radius, w - 1) + 1):
            if dy == 0 and dx <= 0:
                continue
            # The weight of a pair is symmetric: each offset serves its opposite too.
            left, right = max(0, -dx), max(0, dx)
            center = (..., slice(h - dy), slice(left, w - right))
            neighbor = (..., slice(dy, h), slice(right, w - left))
            weight = u[center] - u[neighbor]
            weight *= weight
            weight *= -0.5 / range_sigma**2
            weight += -0.5 * (dy * dy + dx * dx) / sigma**2
            xp.exp(weight, out=weight)
            mass[center] += weight
            mass[neighbor] += weight
            total[center] += weight * u[neighbor]
            total[neighbor] += weight * u[center]
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
    saturated: Array | None = None,
    mask: Any = None,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """x_tv - suppression bilateral(x_tv - x_l0): the last step of [Pan2014] (section 4, "removing artifacts").

    The L0 result has no ringing, and no texture either. Its difference from the TV result is ringing, smooth and low,
    and detail. The bilateral filter keeps the ringing, which is subtracted. With an exact kernel this costs detail; it
    is meant for estimated kernels. Kept for comparison: it is best in no row of the benches.

    Parameters
    ----------
    blurred, kernel, weight, boundary, saturated, mask, callback : common to all methods, see
        `help(gpudeblur.nonblind)`.
    flat_weight : weight of `l0`; None is a quarter of `weight`, which is that of `tv`.
    suppression : fraction of the smooth difference that is subtracted, from 0 (`tv` alone) to 1.
    sigma, range_sigma : of the bilateral filter, in pixels and in the unit of the image (the paper's).
    """
    if weight is None:
        weight = estimate_weight(blurred, kernel, TV_RULE, mask)
    if flat_weight is None:
        flat_weight = FLAT_WEIGHT_RATIO * array_module(blurred).asarray(weight)
    latent = tv_admm(
        blurred, kernel, as_column(weight, blurred), boundary=boundary, saturated=saturated, mask=mask,
        iterations=ITERATIONS, return_padded=True, callback=subrange(callback, 0, 0.6),
    )  # fmt: skip
    unknown = boundary == "unknown"
    padded = fill_unobserved(blurred, kernel, latent, saturated, mask) if unknown else pad(blurred, kernel, boundary)
    flat = l0(padded, kernel, weight=flat_weight, boundary="wrap", callback=subrange(callback, 0.6, 0.3))
    sharp, flat = (crop(x, blurred.shape[-2:]) for x in (latent, flat))
    result = sharp - suppression * bilateral(sharp - flat, sigma=sigma, range_sigma=range_sigma)
    if callback is not None:
        callback(1.0)
    return result
