"""What makes a solution of the kernel step a kernel: projection, and the L0 refinement of seed 0, eq. 12-16."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import Array, array_module, ndimage_module
from .kernel_step import toeplitz_cg


def normalise(kernel: Array) -> Array:
    """Non-negative, sum 1; a kernel without any mass becomes a delta."""
    xp = array_module(kernel)
    kernel = xp.maximum(kernel, 0)
    total = kernel.sum(axis=(-2, -1), keepdims=True)
    empty = ~(total > 0)
    delta = xp.zeros_like(kernel)
    delta[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] = 1
    return xp.where(empty, delta, kernel / xp.where(empty, 1, total))


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
    labels, count = ndimage.label(flat > 0, structure=xp.asarray(connect))
    mass = xp.bincount(labels.ravel(), weights=flat.ravel(), minlength=int(count) + 1)
    per_pixel = xp.where(labels > 0, mass[labels], 0)
    total = flat.sum(axis=(-2, -1), keepdims=True)
    heaviest = per_pixel.max(axis=(-2, -1), keepdims=True)
    keep = (per_pixel >= share * total) | (per_pixel == heaviest)
    return xp.where(keep, flat, 0).reshape(kernel.shape).astype(kernel.dtype, copy=False)


def centre(kernel: Array) -> Array:
    """The kernel moved by whole pixels so that its centre of mass is in the middle; what leaves the support is lost."""
    xp = array_module(kernel)
    kh, kw = kernel.shape[-2:]
    y, x = xp.arange(kh, dtype=kernel.dtype) - kh // 2, xp.arange(kw, dtype=kernel.dtype) - kw // 2
    total = kernel.sum(axis=(-2, -1))
    dy = xp.rint((kernel.sum(axis=-1) * y).sum(axis=-1) / total).astype(int)
    dx = xp.rint((kernel.sum(axis=-2) * x).sum(axis=-1) / total).astype(int)
    rows = xp.arange(kh) + dy[..., None]
    columns = xp.arange(kw) + dx[..., None]
    inside = ((rows >= 0) & (rows < kh))[..., :, None] & ((columns >= 0) & (columns < kw))[..., None, :]
    moved = xp.take_along_axis(kernel, xp.clip(rows, 0, kh - 1)[..., :, None], axis=-2)
    moved = xp.take_along_axis(moved, xp.clip(columns, 0, kw - 1)[..., None, :], axis=-1)
    return xp.where(inside, moved, 0)


def project(kernel: Array, *, share: float, component: float, centred: bool = True) -> Array:
    kernel = drop_components(threshold(normalise(kernel), share), component)
    if centred:
        kernel = centre(kernel)
    return normalise(kernel)


def l0_kernel(autocorrelation: Array, rhs: Array, kernel: Array, *, weight: float, rate: float = 2.0, beta_max: float = 1.0, iterations: int = 20) -> Array:
    """eq. 12-16. weight relative to a(0)."""
    xp = array_module(kernel)
    kh, kw = kernel.shape[-2:]
    energy = autocorrelation[..., kh - 1 : kh, kw - 1 : kw]
    a, b = autocorrelation / energy, rhs / energy
    beta = 2 * weight / float((kernel**2).max())
    while beta < beta_max:
        r = xp.where(kernel**2 >= weight / beta, kernel, 0)
        kernel = toeplitz_cg(a, b + beta * r, kernel, beta, iterations)
        beta *= rate
    return kernel
