"""Richardson-Lucy deconvolution: non-negative, keeps the light, assumes nothing about what was not seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...images.kernels import pad_to_odd
from ...images.noise import noise_sigma_under
from ...numerics.arrays import Array, array_module
from ...numerics.filters import gradient, gradient_adjoint
from ...numerics.progress import OnProgress
from ..expectation_maximization import em_iterations

# White's N: how suddenly the damping sets in.
SUDDENNESS = 10
# Dey's |grad x|, rounded off below this share of the mean brightness.
FLAT = 1e-3


def richardson_lucy(
    blurred: Array,
    kernel: Array,
    *,
    num_iter: int = 30,
    accelerated: bool = True,
    damping: float = 0.0,
    tv_weight: float = 0.0,
    discrepancy: float = 1.0,
    noise_sigma: Any = None,
    boundary: str = "unknown",
    clipped: Array | None = None,
    callback: OnProgress | None = None,
) -> Array:
    """argmax_x of the likelihood of B under Poisson noise, sum(B log(x * k) - x * k), x >= 0, by steps of EM.

    A step is x <- x / (H^T 1) . H^T(B / H x) with H x = x * k where B was seen. It keeps the light: H x sums to what B
    sums to. There is no prior unless `tv_weight` says so: the number of steps trades detail for noise.

    Parameters
    ----------
    blurred : (..., H, W) float; what is below 0 counts as 0.
    kernel : (kh, kw), or one a picture, (..., kh, kw); non-negative, sum 1. Its origin is its pixel
        (kh // 2, kw // 2).
    num_iter : number of steps, four transforms each, unless they end before.
    accelerated : extrapolate between the steps (Biggs & Andrews); `num_iter` then counts for some three times as many.
    damping : in standard deviations of the noise, 0: none. Where x * k is within so many of B, B is followed only
        faintly (White's formula, with the noise of a photograph instead of Poisson's).
    tv_weight : divides a step by 1 - tv_weight div(grad x / |grad x|) (Dey). Against noise; 0.002 to 0.02.
    discrepancy : a picture is done once the rms of B - x * k is under so many `noise_sigma`; 0: only after `num_iter`.
    noise_sigma : standard deviation of the noise of B, a number or one a picture; None estimates it.
    boundary : {"unknown", "reflect", "edge", "wrap"}
        "unknown": x reaches beyond B as far as the kernel does, only what was seen is compared, and what is seen in
        part is weighted with that part (Bertero & Boccacci). "reflect", "edge": B is carried on so. "wrap": B is
        periodic.
    clipped : (..., H, W) bool, where the sensor was at its top: where x * k is more than B there, B has no say. For
        the boundary "unknown" only.
    callback : called with the fraction done after each step.

    Returns
    -------
    (..., H, W), non-negative, not clipped.

    References
    ----------
    W. H. Richardson, J. Opt. Soc. Am. 62 (1972); L. B. Lucy, Astron. J. 79 (1974).
    D. S. C. Biggs, M. Andrews: Acceleration of iterative image restoration algorithms, Appl. Opt. 36 (1997).
    R. L. White: Image restoration using the damped Richardson-Lucy method, SPIE 2198 (1994).
    N. Dey et al.: Richardson-Lucy algorithm with total variation regularization, Microsc. Res. Tech. 69 (2006).
    M. Bertero, P. Boccacci: A simple method for the reduction of boundary effects in the Richardson-Lucy approach to
    image deconvolution, Astron. Astrophys. 437 (2005).

    Examples
    --------
    >>> import numpy as np
    >>> from gpudeblur.nonblind.richardson_lucy import richardson_lucy
    >>> sharp = np.zeros((16, 16))
    >>> sharp[8, 8] = 1
    >>> kernel = np.ones((1, 3)) / 3
    >>> blurred = (np.roll(sharp, 1, 1) + sharp + np.roll(sharp, -1, 1)) / 3
    >>> restored = richardson_lucy(blurred, kernel, num_iter=50)
    >>> bool(restored[8, 8] > 0.95), round(float(restored.sum()), 3)
    (True, 1.0)
    """
    xp, damped, regular = array_module(blurred, kernel), None, None
    sigma: Any = 0.0
    if damping or discrepancy:
        sigma = noise_sigma_under(blurred, kernel) if noise_sigma is None else noise_sigma
        sigma = xp.asarray(sigma, dtype=blurred.dtype)[..., None, None]
    if damping:
        # Without any noise there is nothing to be damped, but something to be divided by.
        least = 1e-12 * abs(blurred).max(axis=(-2, -1), keepdims=True) + float(np.finfo(blurred.dtype).tiny)
        limit = xp.maximum(damping * sigma, least)

        def damped(ratio: Array, difference: Array) -> Array:
            share = xp.minimum(abs(difference) / limit, 1) ** 2
            ratio = ratio - 1
            ratio *= share ** (SUDDENNESS - 1) * (SUDDENNESS - (SUDDENNESS - 1) * share)
            return ratio + 1

    if clipped is not None and boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' with clipped, got {boundary!r}; leave out one of them")
    if tv_weight:

        def regular(x: Array) -> Array:
            gx, gy = gradient(x)
            # A gradient far below the brightness is none: its direction is noise.
            size = xp.sqrt(gx * gx + gy * gy + (FLAT * x.mean(axis=(-2, -1), keepdims=True)) ** 2)
            size = xp.maximum(size, float(np.finfo(x.dtype).tiny))
            return 1 + tv_weight * gradient_adjoint(gx / size, gy / size)

    return em_iterations(
        blurred,
        pad_to_odd(kernel),
        2,
        num_iter=num_iter,
        boundary=boundary,
        accelerated=accelerated,
        damped=damped,
        regular=regular,
        clipped=clipped,
        until=discrepancy * sigma if discrepancy else 0.0,
        callback=callback,
    )
