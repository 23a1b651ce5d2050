"""Richardson-Lucy deconvolution: non-negative, preserves the total intensity, for any boundary."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...images.kernel_field import KernelField
from ...images.kernels import pad_to_odd
from ...images.noise import noise_sigma_under
from ...numerics.arrays import Array, array_module
from ...numerics.progress import OnProgress
from ..expectation_maximization import em_iterations, tv_slope
from ..regularization import as_column

DAMPING_EXPONENT = 10  # N of [White1994]


def richardson_lucy(
    blurred: Array,
    kernel: Array | KernelField,
    *,
    num_iter: int = 30,
    accelerated: bool = True,
    damping: float = 0.0,
    tv_weight: float = 0.0,
    discrepancy: float = 1.0,
    noise_sigma: Any = None,
    offset: float = 0.0,
    boundary: str = "unknown",
    saturated: Array | None = None,
    mask: Any = None,
    callback: OnProgress | None = None,
) -> Array:
    """argmax_x of the likelihood of B under Poisson noise, sum(B log(x * k) - x * k), x >= 0, by steps of EM.

    A step ([Richardson1972], [Lucy1974]) is x <- x / (H^T 1) . H^T(B / H x), where H x is x * k at the observed pixels.
    It preserves the total intensity: the sum of H x is that of B. Without `tv_weight` there is no prior, and the number
    of steps trades detail for noise.

    Parameters
    ----------
    blurred, kernel, noise_sigma, boundary, saturated, mask, callback : common to all methods, see
        `help(gpudeblur.nonblind)`. With holes in the mask, the first x is H^T of B interpolated in them, and a
        weak `tv_weight` acts where they lose light; what valid pixels saw less than a fifth of is interpolated from the
        result around it.
    num_iter : number of steps of four transforms each, if they do not end before.
    accelerated : extrapolate between the steps ([Biggs1997]); each then counts for about three.
    damping : in standard deviations of the noise; 0: none. Where x * k is within this distance of B, x follows B only
        faintly ([White1994] with the noise of a photograph instead of Poisson's).
    tv_weight : divides a step by 1 - tv_weight div(grad x / |grad x|) ([Dey2006]). Against noise; 0.002 to 0.02.
    discrepancy : an image is done when the rms of B - x * k is below this multiple of `noise_sigma`; 0: only after
        `num_iter`.
    offset : added to `blurred` before and subtracted from x after, so that x >= -offset: for images from which the sky
        or the offset of the camera was subtracted.

    A `KernelField` as kernel makes H a blur that varies over the image, for the boundary "unknown".

    Negative values of `blurred` (with `offset`) count as 0, which adds light where noise about 0 is cut off. With the
    boundary "unknown", x extends beyond B as far as the kernel does, and pixels that were partly observed are weighted
    by that part ([Bertero2005]).

    Examples
    --------
    >>> import numpy as np
    >>> from gpudeblur.nonblind import richardson_lucy
    >>> sharp = np.zeros((16, 16))
    >>> sharp[8, 8] = 1
    >>> kernel = np.ones((1, 3)) / 3
    >>> blurred = (np.roll(sharp, 1, 1) + sharp + np.roll(sharp, -1, 1)) / 3
    >>> restored = richardson_lucy(blurred, kernel, num_iter=50, noise_sigma=0)
    >>> bool(restored[8, 8] > 0.95), round(float(restored.sum()), 3)
    (True, 1.0)
    """
    blurred = blurred + offset if offset else blurred
    xp, tiny = array_module(blurred), float(np.finfo(blurred.dtype).tiny)
    sigma: Any = 0.0
    if damping or discrepancy:
        sigma = noise_sigma_under(blurred, kernel, mask) if noise_sigma is None else noise_sigma
        sigma = as_column(xp.asarray(sigma, dtype=blurred.dtype), blurred)
    # Without noise, the minimum avoids a division by 0.
    limit = xp.maximum(damping * sigma, 1e-12 * abs(blurred).max(axis=(-2, -1), keepdims=True) + tiny)

    def damp(ratio: Array, difference: Array) -> Array:
        u = xp.minimum(abs(difference) / limit, 1) ** 2
        ratio = ratio - 1
        ratio *= u ** (DAMPING_EXPONENT - 1) * (DAMPING_EXPONENT - (DAMPING_EXPONENT - 1) * u)
        return ratio + 1

    def regularizer(x: Array) -> Array:
        return 1 + tv_weight * tv_slope(x)

    latent = em_iterations(
        blurred,
        kernel if isinstance(kernel, KernelField) else pad_to_odd(kernel),
        2,
        num_iter=num_iter,
        boundary=boundary,
        accelerated=accelerated,
        damping=damp if damping else None,
        regularizer=regularizer if tv_weight else None,
        saturated=saturated,
        mask=mask,
        tolerance=discrepancy * sigma if discrepancy else None,
        callback=callback,
    )
    return latent - offset if offset else latent
