"""The restoration that ends `deblur`: with which method, weight and boundary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..images.noise import noise_sigma_under
from ..numerics.arrays import Array, array_module
from ..numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2
from .methods import METHODS
from .regularization import weight_from_sigma
from .saturation import project_on_data

# With which of them `deblur` ends, and how; the fast one in one CUDA graph, for which its weight must be fixed.
FINALS: dict[str, Mapping[str, Any]] = {
    "sparse": {},
    "tv": {},
    "hyper-laplacian": {"weight": 5e-4, "boundary": "liu-jia"},
}
# The more unknowns a kernel has for a pixel of the picture, the less it is right, and that is like noise: of a standard
# deviation of 5 (kh kw / H W)^2, and up to 0.016. On small faces it takes the worst loss from 4.5 to 3.4 dB, and costs
# nothing in the mean.
KERNEL_ERROR, KERNEL_ERROR_MAX = 5.0, 0.016


def residual_mse(blurred: Array, sharp: Array, kernel: Array, clipped: Array | None = None) -> Array:
    """Mean of (B - x * k)^2 over the last two axes, where the whole kernel lies inside the picture; (...).

    Where B is `clipped`, x * k is right if it is more.
    """
    xp = array_module(blurred, sharp, kernel)
    (h, w), (kh, kw) = blurred.shape[-2:], kernel.shape[-2:]
    grid = (fast_size(h), fast_size(w))
    padded = xp.zeros((*sharp.shape[:-2], *grid), dtype=sharp.dtype)
    padded[..., :h, :w] = sharp
    reblurred = irfft2(psf_to_otf(kernel, grid) * rfft2(padded), grid) / (grid[0] * grid[1])
    inside = (..., slice(kh // 2, h - kh // 2), slice(kw // 2, w - kw // 2))
    seen = project_on_data(blurred[inside], reblurred[inside], None if clipped is None else clipped[inside])
    error = (reblurred[inside] - seen) ** 2
    return error.reshape(*error.shape[:-2], -1).mean(axis=-1)  # one axis: on NumPy, a batch rounds as a loop then


def restore(
    blurred: Array,
    kernel: Array,
    method: str,
    callback: Callable[[float], None] | None = None,
    clipped: Array | None = None,
) -> Array:
    """`blurred` (..., H, W) restored with an estimated `kernel` (..., kh, kw) by one of `FINALS`.

    `clipped` (..., H, W), where the sensor was at its top, is for those whose boundary is unknown.
    """
    options = dict(FINALS[method])
    if clipped is not None and "boundary" not in options:
        options["clipped"] = clipped
    if "weight" not in options:
        options["weight"] = _weight_with_kernel_error(blurred, kernel, method)
    return METHODS[method](blurred, kernel, callback=callback, **options)


def _weight_with_kernel_error(blurred: Array, kernel: Array, method: str) -> Array:
    """The weight for the noise of `blurred`, or for what `kernel` is not trusted with if that is more; (...)."""
    xp, pixels = array_module(blurred, kernel), blurred.shape[-2] * blurred.shape[-1]
    error = min(KERNEL_ERROR * (kernel.shape[-2] * kernel.shape[-1] / pixels) ** 2, KERNEL_ERROR_MAX)
    sigma = xp.maximum(noise_sigma_under(blurred, kernel), error)
    return xp.asarray(weight_from_sigma(sigma, method), dtype=blurred.dtype)
