"""Resampling of images by cubic interpolation, with a low-pass where they shrink."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import Array, array_module, goes_to_cuda


@functools.lru_cache(maxsize=64)
def _resampling(source: int, target: int) -> np.ndarray:
    """(target, source): cubic interpolation (a = -1/2), stretched where pixels get lost, rows of sum 1."""
    scale = target / source
    width = max(1.0, 1 / scale)
    centre = (np.arange(target) + 0.5) / scale - 0.5
    t = np.abs(np.arange(source)[None, :] - centre[:, None]) / width
    cubic = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0.0))
    return cubic / cubic.sum(axis=1, keepdims=True)


def resample(picture: Array, shape: tuple[int, int]) -> Array:
    """`picture` (..., H, W) on a grid of `shape`, pixel centres aligned, low-passed where it shrinks."""
    xp = array_module(picture)
    if picture.shape[-2:] == tuple(shape):
        return picture
    if goes_to_cuda(picture):
        return resample_on_device(picture, shape, _resampling)
    if xp is np:
        # Not by BLAS: its sums depend on how many threads it has, and they all spin for this little work.
        rows = _resample_rows(picture, shape[0])
        return np.ascontiguousarray(_resample_rows(rows.swapaxes(-2, -1), shape[1]).swapaxes(-2, -1))
    rows, columns = (
        xp.asarray(_resampling(a, b).astype(picture.dtype)) for a, b in zip(picture.shape[-2:], shape, strict=True)
    )
    return rows @ picture @ columns.T


def _resample_rows(picture: np.ndarray, target: int) -> np.ndarray:
    """`_resampling` of the rows, by the few weights that are not 0. CUDA kernel: resample.cu."""
    first, weights = _taps(_resampling, picture.shape[-2], target)
    out = np.zeros((*picture.shape[:-2], target, picture.shape[-1]), dtype=picture.dtype)
    for tap, weight in enumerate(weights.astype(picture.dtype)):
        part = picture[..., first + tap, :]
        part *= weight[:, None]
        out += part
    return out


def resample_on_device(
    picture: Array, shape: tuple[int, int], matrix: Callable[..., np.ndarray], *args: float
) -> Array:
    """rows @ picture @ columns.T of float32 CuPy pictures, with `matrix(source, target, *args)` for either axis."""
    from . import constants, cuda

    for axis, target in enumerate(shape):
        sizes = (matrix, picture.shape[axis - 2], target, *args)
        first, weights = (constants.on_device(table, *sizes) for table in (_first_taps, _tap_weights))
        picture = cuda.resample(picture, first, weights, axis)
    return picture


@functools.lru_cache(maxsize=128)
def _taps(matrix: Callable[..., np.ndarray], *args: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `matrix(*args)`, (target, source), by what is not 0: where each begins (target,), (taps, target)."""
    rows = matrix(*args)
    target, source = rows.shape
    used = rows != 0  # from the first to the last: a weight between may be 0
    first = used.argmax(axis=1)
    last = np.where(used.any(axis=1), source - 1 - used[:, ::-1].argmax(axis=1), first)
    taps = int((last - first).max()) + 1
    first = np.minimum(first, source - taps)
    return first, rows[np.arange(target), first + np.arange(taps)[:, None]]


def _first_taps(matrix: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    return _taps(matrix, *args)[0].astype(np.int32)


def _tap_weights(matrix: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    return _taps(matrix, *args)[1].astype(np.float32)


def scaled_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """The picture's shape at a scale."""
    return tuple(max(1, round(side * scale)) for side in shape)  # type: ignore[return-value]
