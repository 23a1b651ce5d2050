"""Periodic grids for pictures of any number of axes: transforms, kernels with their origin, what is put outside.

`fourier` and `boundary` are for pictures (..., H, W); here the last `len(shape)` axes are space, be it one or three.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arrays import Array, array_module, fft_module
from ..fourier import fast_size, irfft2, rfft2

Shape = tuple[int, ...]


def rfft(x: Array, ndim: int) -> Array:
    """Real transform over the last `ndim` axes, unscaled."""
    if ndim == 2:
        return rfft2(x)
    return fft_module(array_module(x)).rfftn(x, axes=tuple(range(-ndim, 0)))


def irfft(spectrum: Array, shape: Shape) -> Array:
    """Inverse of `rfft` times the number of pixels; `spectrum` may be overwritten."""
    if len(shape) == 2:
        return irfft2(spectrum, (shape[0], shape[1]), overwrite=True)
    fft = fft_module(array_module(spectrum))
    return fft.irfftn(spectrum, s=shape, axes=tuple(range(-len(shape), 0)), norm="forward")


def place(kernel: Array, shape: Shape, origin: Shape) -> Array:
    """`kernel` (..., *sides) among zeros on a periodic grid (..., *shape), its pixel `origin` at index 0."""
    ndim = len(shape)
    grid = array_module(kernel).zeros((*kernel.shape[:-ndim], *shape), dtype=kernel.dtype)
    grid[(..., *map(slice, kernel.shape[-ndim:]))] = kernel
    return array_module(kernel).roll(grid, tuple(-o for o in origin), tuple(range(-ndim, 0)))


def fast_shape(shape: Shape) -> Shape:
    return tuple(map(fast_size, shape))


def sum_over(x: Array, ndim: int) -> Array:
    """The sum over the last `ndim` axes, which stay with length 1.

    On NumPy, the sum of one picture does not depend on the batch around it.
    """
    lead = x.shape[:-ndim]
    flat = x.reshape(*lead, math.prod(x.shape[-ndim:]))  # a shape without -1: no axis is too many for an empty batch
    return flat.sum(axis=-1).reshape(*lead, *(1,) * ndim)


def extend(picture: Array, margin: Shape, mode: str) -> tuple[Array, tuple[Any, ...]]:
    """The picture (..., *space) made periodic by at least `margin` new pixels an axis, and the slices that undo it.

    The new pixels carry on from one border, by reflection or with its last value, and fade over to what comes before
    the opposite border, so that nothing jumps where the grid closes.

    Parameters
    ----------
    picture : float array.
    margin : the least number of new pixels along each of the last `len(margin)` axes, in all.
    mode : {"reflect", "edge"}
        "reflect" repeats the last pixel (d c b a | a b c d | d c b a), as in `scipy.ndimage`.
    """
    xp, ndim, inside = array_module(picture), len(margin), []
    for axis, least in zip(range(-ndim, 0), margin, strict=True):
        side = picture.shape[axis]
        count = fast_size(side + least) - side
        after = np.arange(side, side + count)
        before = np.arange(-count, 0)
        if mode == "edge":
            after, before = np.full(count, side - 1), np.zeros(count, int)
        else:
            after, before = (np.where(i % (2 * side) < side, i, ~i) % side for i in (after, before))
        share = ((np.arange(count) + 0.5) / max(count, 1)).reshape(-1, *(1,) * (-axis - 1))
        fade = xp.asarray((0.5 - 0.5 * np.cos(np.pi * share)).astype(picture.dtype))
        one, other = (xp.take(picture, xp.asarray(i), axis=axis) for i in (after, before))
        picture = xp.concatenate([picture, one + fade * (other - one)], axis=axis)
        inside.append(slice(side))
    return picture, (..., *inside)
