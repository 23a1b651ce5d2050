"""Restoration with a known kernel: one method a file, each f(blurred, kernel, *, ..., callback) on (..., H, W).

As functions of this package (`gpudeblur.nonblind.tv`) the methods check what they are given, and take kernels of any
sides and of any positive sum, as `gpudeblur.deconvolve` does; see `checked`. As functions of their modules
(`gpudeblur.nonblind.tv.tv`) and in `METHODS` they do not: that is for callers which have checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..images.noise import noise_sigma_under
from ..numerics.arrays import Array, array_module
from ..numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2
from .checked import checked
from .clipping import believed
from .epll import epll as _epll
from .hyper_laplacian import hyper_laplacian as _hyper_laplacian
from .l0 import l0 as _l0
from .richardson_lucy import richardson_lucy as _richardson_lucy
from .ringing import ringing_suppressed as _ringing_suppressed
from .sparse import sparse as _sparse
from .tv import tv as _tv
from .weights import weight_of
from .wiener import unsupervised_wiener as _unsupervised_wiener
from .wiener import wiener as _wiener

METHODS: dict[str, Callable[..., Array]] = {
    "sparse": _sparse,
    "hyper-laplacian": _hyper_laplacian,
    "tv": _tv,
    "epll": _epll,
    "l0": _l0,
    "ringing-suppressed": _ringing_suppressed,
    "wiener": _wiener,
    "richardson-lucy": _richardson_lucy,
}
epll = checked(_epll)
hyper_laplacian = checked(_hyper_laplacian)
l0 = checked(_l0)
richardson_lucy = checked(_richardson_lucy)
ringing_suppressed = checked(_ringing_suppressed)
sparse = checked(_sparse)
tv = checked(_tv)
unsupervised_wiener = checked(_unsupervised_wiener)
wiener = checked(_wiener)
# With which of them `deblur` ends, and how; the fast one in one CUDA graph, for which its weight must be fixed.
FINALS: dict[str, Mapping[str, Any]] = {
    "sparse": {},
    "tv": {},
    "hyper-laplacian": {"weight": 5e-4, "boundary": "liu-jia"},
}
# The more unknowns a kernel has for a pixel of the picture, the less it is right, and that is like noise: of a standard
# deviation of 5 (kh kw / H W)^2, and up to 0.016. On small faces it takes the worst loss from 4.5 to 3.4 dB, and costs
# nothing in the mean.
MISTRUST, MOST_MISTRUST = 5.0, 0.016

__all__ = [
    "epll",
    "hyper_laplacian",
    "l0",
    "richardson_lucy",
    "ringing_suppressed",
    "sparse",
    "tv",
    "unsupervised_wiener",
    "wiener",
]


def unexplained(blurred: Array, sharp: Array, kernel: Array, clipped: Array | None = None) -> Array:
    """Mean of (B - x * k)^2 over the last two axes, where the whole kernel lies inside the picture; (...).

    Where B is `clipped`, x * k is right if it is more.
    """
    xp = array_module(blurred, sharp, kernel)
    (h, w), (kh, kw) = blurred.shape[-2:], kernel.shape[-2:]
    grid = (fast_size(h), fast_size(w))
    room = xp.zeros((*sharp.shape[:-2], *grid), dtype=sharp.dtype)
    room[..., :h, :w] = sharp
    again = irfft2(psf_to_otf(kernel, grid) * rfft2(room), grid) / (grid[0] * grid[1])
    inside = (..., slice(kh // 2, h - kh // 2), slice(kw // 2, w - kw // 2))
    seen = believed(blurred[inside], again[inside], None if clipped is None else clipped[inside])
    error = (again[inside] - seen) ** 2
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
        options["weight"] = _trusting_weight(blurred, kernel, method)
    return METHODS[method](blurred, kernel, callback=callback, **options)


def _trusting_weight(blurred: Array, kernel: Array, method: str) -> Array:
    """The weight for the noise of `blurred`, or for what `kernel` is not trusted with if that is more; (...)."""
    xp, pixels = array_module(blurred, kernel), blurred.shape[-2] * blurred.shape[-1]
    error = min(MISTRUST * (kernel.shape[-2] * kernel.shape[-1] / pixels) ** 2, MOST_MISTRUST)
    sigma = xp.maximum(noise_sigma_under(blurred, kernel), error)
    return xp.asarray(weight_of(sigma, method), dtype=blurred.dtype)
