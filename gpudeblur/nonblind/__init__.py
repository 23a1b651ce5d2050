"""Restoration with a known kernel: one method a file, each f(blurred, kernel, *, ..., callback) on (..., H, W)."""

from __future__ import annotations

from collections.abc import Callable

from .._arrays import Array
from .hyper_laplacian import hyper_laplacian
from .sparse import sparse

METHODS: dict[str, Callable[..., Array]] = {"sparse": sparse, "hyper-laplacian": hyper_laplacian}


def restore(blurred: Array, kernel: Array, method: str, callback: Callable[[float], None] | None = None) -> Array:
    """`blurred` (..., H, W) restored with `kernel` (..., kh, kw) by the method of that name."""
    return METHODS[method](blurred, kernel, callback=callback)
