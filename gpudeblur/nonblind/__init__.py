"""Restoration with a known kernel: one method a file, each f(blurred, kernel, *, ..., callback) on (..., H, W)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._arrays import Array, array_module
from ..fourier import fast_size, irfft2, psf_to_otf, rfft2
from .hyper_laplacian import hyper_laplacian
from .l0 import l0
from .richardson_lucy import richardson_lucy
from .ringing import ringing_suppressed
from .sparse import sparse
from .tv import tv
from .wiener import unsupervised_wiener, wiener

METHODS: dict[str, Callable[..., Array]] = {
    "sparse": sparse,
    "hyper-laplacian": hyper_laplacian,
    "tv": tv,
    "l0": l0,
    "ringing-suppressed": ringing_suppressed,
    "wiener": wiener,
    "richardson-lucy": richardson_lucy,
}
# With which of them `deblur` ends, and how; the fast one in one CUDA graph, for which its weight must be fixed.
FINALS: dict[str, Mapping[str, Any]] = {
    "sparse": {},
    "tv": {},
    "hyper-laplacian": {"weight": 5e-4, "boundary": "liu-jia"},
}

__all__ = [
    "FINALS",
    "METHODS",
    "hyper_laplacian",
    "l0",
    "restore",
    "richardson_lucy",
    "ringing_suppressed",
    "sparse",
    "tv",
    "unexplained",
    "unsupervised_wiener",
    "wiener",
]


def unexplained(blurred: Array, sharp: Array, kernel: Array) -> Array:
    """Mean of (B - x * k)^2 over the last two axes, where the whole kernel lies inside the picture; (...)."""
    xp = array_module(blurred, sharp, kernel)
    (h, w), (kh, kw) = blurred.shape[-2:], kernel.shape[-2:]
    grid = (fast_size(h), fast_size(w))
    room = xp.zeros((*sharp.shape[:-2], *grid), dtype=sharp.dtype)
    room[..., :h, :w] = sharp
    again = irfft2(psf_to_otf(kernel, grid) * rfft2(room), grid) / (grid[0] * grid[1])
    inside = (..., slice(kh // 2, h - kh // 2), slice(kw // 2, w - kw // 2))
    error = (again[inside] - blurred[inside]) ** 2
    return error.reshape(*error.shape[:-2], -1).mean(axis=-1)  # one axis: on NumPy, a batch rounds as a loop then


def restore(blurred: Array, kernel: Array, method: str, callback: Callable[[float], None] | None = None) -> Array:
    """`blurred` (..., H, W) restored with an estimated `kernel` (..., kh, kw) by one of `FINALS`."""
    return METHODS[method](blurred, kernel, callback=callback, **FINALS[method])
