"""What makes the solution of a kernel step a blur kernel: non-negative, thresholded, connected, centered, sum 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, goes_to_cuda, ndimage_module

# `project` decides on the kernel in shares of 2^-30 of its maximum: integers, whose sums are the same in any order.
UNIT = 1 << 30


def normalize(kernel: Array, known: Array | None = None, *, out: Array | None = None) -> Array:
    """Non-negative, sum 1; a delta where there is no mass, or where `known` (...) bool is False."""
    if goes_to_cuda(kernel):
        from ..numerics import cuda

        return cuda.normalize(kernel, known, out=out)
    xp = array_module(kernel)
    kernel = xp.maximum(kernel, 0)
    if known is not None:
        kernel = xp.where(known[..., None, None], kernel, 0)
    total = kernel.sum(axis=(-2, -1), keepdims=True)
    empty = ~(total > 0)
    delta = xp.zeros_like(kernel)
    delta[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] = 1
    return xp.where(empty, delta, kernel / xp.where(empty, 1, total))


def initial_kernel(size: tuple[int, int], count: int, xp: Any, dtype: Any) -> Array:
    """Where the coarsest scale starts: two neighbours of 1/2 (Pan et al. 2014), (count, kh, kw).

    A delta would be a fixed point of the alternation; any small blur is not.
    """
    kernel = xp.zeros((count, *size), dtype=dtype)
    middle, column = size[0] // 2, size[1] // 2
    kernel[:, middle, column - 1 : column + 1] = 0.5
    return kernel


def project(
    kernel: Array, *, share: float, component: float, out: Array | None = None, scratch: Array | None = None
) -> Array:
    """A kernel from a solution: clipped, thresholded, without specks, centred, sum 1.

    What stays and where it goes is decided in integers, k / max k in units of 2^-30: every backend decides alike.
    A kernel that is NaN or infinite somewhere, or has no mass, becomes a delta.

    Parameters
    ----------
    kernel : (..., kh, kw).
    share : of the maximum: pixels under it become 0.
    component : of the mass that is left: 8-connected components with less become 0; the heaviest always stays.
    """
    if goes_to_cuda(kernel):
        from ..numerics import cuda

        return cuda.project(kernel, share, component, out=out, scratch=scratch)
    xp = array_module(kernel)
    peak = kernel.max(axis=(-2, -1), keepdims=True)
    usable = (peak >= float(np.finfo(kernel.dtype).tiny)) & (peak < np.inf)
    kernel = xp.where(usable, xp.maximum(kernel, 0), 0)
    units = xp.rint(kernel / xp.where(usable, peak, 1) * UNIT).astype(np.int64)
    units = drop_components(threshold(units, share), component)
    return normalize(center(xp.where(units > 0, normalize(kernel), 0), units))


def threshold(kernel: Array, share: float) -> Array:
    """Pixels under `share` of the maximum become 0."""
    xp = array_module(kernel)
    return xp.where(kernel >= share * kernel.max(axis=(-2, -1), keepdims=True), kernel, 0)


def drop_components(kernel: Array, share: float) -> Array:
    """8-connected components with less than `share` of the mass become 0; the heaviest one always stays."""
    xp = array_module(kernel)
    ndimage = ndimage_module(xp)
    flat = kernel.reshape(-1, *kernel.shape[-2:])
    connect = np.zeros((3, 3, 3), dtype=bool)
    connect[1] = True  # neighbours within a picture, none from one picture to the next
    labels, count = ndimage.label(flat > 0, structure=connect)  # on CuPy (float64) this waits for the device
    mass = xp.bincount(labels.ravel(), weights=flat.ravel(), minlength=int(count) + 1)  # exact for integers, to 2^53
    per_pixel = xp.where(labels > 0, mass[labels], 0)
    total = flat.sum(axis=(-2, -1), keepdims=True)
    heaviest = per_pixel.max(axis=(-2, -1), keepdims=True)
    keep = (per_pixel >= share * total) | (per_pixel == heaviest)
    return xp.where(keep, flat, 0).reshape(kernel.shape).astype(kernel.dtype, copy=False)


def center(kernel: Array, mass: Array) -> Array:
    """The kernel moved by whole pixels so that the centre of `mass`, a like array, is in the middle.

    What leaves the support is lost. Where there is no mass, the kernel stays where it is.
    """
    xp = array_module(kernel, mass)
    kh, kw = kernel.shape[-2:]
    y, x = xp.arange(kh) - kh // 2, xp.arange(kw) - kw // 2
    total = mass.sum(axis=(-2, -1))
    total = xp.where(total > 0, total, 1)
    dy = xp.rint((mass.sum(axis=-1) * y).sum(axis=-1) / total).astype(int)
    dx = xp.rint((mass.sum(axis=-2) * x).sum(axis=-1) / total).astype(int)
    rows = xp.arange(kh) + dy[..., None]
    columns = xp.arange(kw) + dx[..., None]
    inside = ((rows >= 0) & (rows < kh))[..., :, None] & ((columns >= 0) & (columns < kw))[..., None, :]
    moved = xp.take_along_axis(kernel, xp.clip(rows, 0, kh - 1)[..., :, None], axis=-2)
    moved = xp.take_along_axis(moved, xp.clip(columns, 0, kw - 1)[..., None, :], axis=-1)
    return xp.where(inside, moved, 0)
