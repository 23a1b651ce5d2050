"""What makes the solution of a kernel step a blur kernel: non-negative, thresholded, connected, centered, sum 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, goes_to_cuda, ndimage_module

# `project` works in units of 2^-30 of the kernel's maximum: integers, whose sums are the same in any order.
UNIT = 1 << 30


def normalize(kernel: Array, determined: Array | None = None, *, out: Array | None = None) -> Array:
    """Non-negative, sum 1; a delta where there is no mass or `determined` (...) is False. CUDA kernel: normalize.cu."""
    if goes_to_cuda(kernel):
        from ..numerics import cuda

        return cuda.normalize(kernel, determined, out=out)
    xp = array_module(kernel)
    kernel = xp.maximum(kernel, 0)
    if determined is not None:
        kernel = xp.where(determined[..., None, None], kernel, 0)
    total = kernel.sum(axis=(-2, -1), keepdims=True)
    empty = ~(total > 0)
    delta = xp.zeros_like(kernel)
    delta[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] = 1
    return xp.where(empty, delta, kernel / xp.where(empty, 1, total))


def initial_kernel(size: tuple[int, int], n: int, xp: Any, dtype: Any) -> Array:
    """The kernel at the start of the coarsest scale: two adjacent pixels of 1/2 ([Pan2014]), (n, kh, kw).

    A delta would be a fixed point of the alternation; any small blur is not.
    """
    kernel = xp.zeros((n, *size), dtype=dtype)
    middle, column = size[0] // 2, size[1] // 2
    kernel[:, middle, column - 1 : column + 1] = 0.5
    return kernel


def project(
    kernel: Array, *, share: float, component: float, out: Array | None = None, scratch: Array | None = None
) -> Array:
    """The kernel of a solution: non-negative, thresholded, without small components, centered, sum 1.

    Which pixels stay and how far the kernel moves is decided on integers, k / max k in units of 2^-30, so that all
    backends decide alike. A kernel with NaN or infinity, or without mass, becomes a delta. CUDA kernel: project.cu.

    Parameters
    ----------
    kernel : (..., kh, kw).
    share : fraction of the maximum below which pixels become 0.
    component : fraction of the remaining mass below which 8-connected components become 0; the heaviest always stays.
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
    """Pixels below the fraction `share` of the maximum become 0."""
    xp = array_module(kernel)
    return xp.where(kernel >= share * kernel.max(axis=(-2, -1), keepdims=True), kernel, 0)


def drop_components(kernel: Array, share: float) -> Array:
    """8-connected components with less than the fraction `share` of the mass become 0; the heaviest always stays."""
    xp = array_module(kernel)
    ndimage = ndimage_module(xp)
    flat = kernel.reshape(-1, *kernel.shape[-2:])
    connect = np.zeros((3, 3, 3), dtype=bool)
    connect[1] = True  # neighbors within an image, none between images
    labels, n = ndimage.label(flat > 0, structure=connect)  # on CuPy (float64) this waits for the device
    mass = xp.bincount(labels.ravel(), weights=flat.ravel(), minlength=int(n) + 1)  # exact for integers, to 2^53
    per_pixel = xp.where(labels > 0, mass[labels], 0)
    total = flat.sum(axis=(-2, -1), keepdims=True)
    heaviest = per_pixel.max(axis=(-2, -1), keepdims=True)
    keep = (per_pixel >= share * total) | (per_pixel == heaviest)
    return xp.where(keep, flat, 0).reshape(kernel.shape).astype(kernel.dtype, copy=False)


def center(kernel: Array, mass: Array) -> Array:
    """`kernel` shifted by whole pixels so that the centroid of `mass`, an array of the same shape, is in the middle.

    Pixels shifted out of the support are lost. A kernel without mass is not shifted.
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
