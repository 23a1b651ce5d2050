"""Restoration with a known kernel: one method a file, each f(blurred, kernel, *, ..., callback) on (..., H, W)."""

from __future__ import annotations

from collections.abc import Callable

from .._arrays import Array, array_module
from ..fourier import fast_size, irfft2, psf_to_otf, rfft2
from .hyper_laplacian import hyper_laplacian
from .l0 import l0
from .ringing import ringing_suppressed
from .sparse import sparse
from .tv import tv

METHODS: dict[str, Callable[..., Array]] = {
    "sparse": sparse,
    "hyper-laplacian": hyper_laplacian,
    "tv": tv,
    "l0": l0,
    "ringing-suppressed": ringing_suppressed,
}


def unexplained(blurred: Array, sharp: Array, kernel: Array) -> Array:
    """Mean of (B - x * k)^2 over the last two axes, where the whole kernel lies inside the picture; (...)."""
    xp = array_module(blurred, sharp, kernel)
    (h, w), (kh, kw) = blurred.shape[-2:], kernel.shape[-2:]
    grid = (fast_size(h), fast_size(w))
    room = xp.zeros((*sharp.shape[:-2], *grid), dtype=sharp.dtype)
    room[..., :h, :w] = sharp
    again = irfft2(psf_to_otf(kernel, grid) * rfft2(room), grid) / (grid[0] * grid[1])
    inside = (..., slice(kh // 2, h - kh // 2), slice(kw // 2, w - kw // 2))
    return ((again[inside] - blurred[inside]) ** 2).mean(axis=(-2, -1))


def restore(blurred: Array, kernel: Array, method: str, callback: Callable[[float], None] | None = None) -> Array:
    """`blurred` (..., H, W) restored with `kernel` (..., kh, kw) by the method of that name."""
    return METHODS[method](blurred, kernel, callback=callback)
