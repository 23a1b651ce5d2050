"""Resampling of images by cubic interpolation, with a low-pass filter where they shrink."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import Array, array_module, goes_to_cuda


@functools.lru_cache(maxsize=64)
def _resampling(source: int, target: int) -> np.ndarray:
    """(target, source): cubic interpolation (a = -1/2), widened where the image shrinks; its rows sum to 1."""
    scale = target / source
    width = max(1.0, 1 / scale)
    center = (np.arange(target) + 0.5) / scale - 0.5
    t = np.abs(np.arange(source)[None, :] - center[:, None]) / width
    cubic = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0.0))
    return cubic / cubic.sum(axis=1, keepdims=True)


def resample(image: Array, shape: tuple[int, int]) -> Array:
    """`image` (..., H, W) on a grid of `shape`, pixel centers aligned, low-passed where it shrinks."""
    xp = array_module(image)
    if image.shape[-2:] == tuple(shape):
        return image
    if goes_to_cuda(image):
        return resample_on_device(image, shape, _resampling)
    if xp is np:
        # Without BLAS, whose sums depend on its number of threads.
        rows = _resample_rows(image, shape[0])
        return np.ascontiguousarray(_resample_rows(rows.swapaxes(-2, -1), shape[1]).swapaxes(-2, -1))
    rows, columns = (
        xp.asarray(_resampling(a, b).astype(image.dtype)) for a, b in zip(image.shape[-2:], shape, strict=True)
    )
    return rows @ image @ columns.T


def _resample_rows(image: np.ndarray, target: int) -> np.ndarray:
    """`_resampling(H, target) @ image` by the nonzero weights only. CUDA kernel: resample.cu."""
    first, weights = _taps(_resampling, image.shape[-2], target)
    out = np.zeros((*image.shape[:-2], target, image.shape[-1]), dtype=image.dtype)
    for tap, weight in enumerate(weights.astype(image.dtype)):
        term = image[..., first + tap, :]
        term *= weight[:, None]
        out += term
    return out


def resample_on_device(image: Array, shape: tuple[int, int], matrix: Callable[..., np.ndarray], *args: float) -> Array:
    """rows @ image @ columns.T of float32 CuPy images, with `matrix(source, target, *args)` for either axis."""
    from . import constants, cuda

    for axis, target in enumerate(shape):
        sizes = (matrix, image.shape[axis - 2], target, *args)
        first, weights = (constants.on_device(table, *sizes) for table in (_first_taps, _tap_weights))
        image = cuda.resample(image, first, weights, axis)
    return image


@functools.lru_cache(maxsize=128)
def _taps(matrix: Callable[..., np.ndarray], *args: Any) -> tuple[np.ndarray, np.ndarray]:
    """The band of `matrix(*args)` (target, source) that is not 0: first column (target,), weights (taps, target)."""
    rows = matrix(*args)
    target, source = rows.shape
    nonzero = rows != 0
    first = nonzero.argmax(axis=1)
    last = np.where(nonzero.any(axis=1), source - 1 - nonzero[:, ::-1].argmax(axis=1), first)
    taps = int((last - first).max()) + 1
    first = np.minimum(first, source - taps)
    return first, rows[np.arange(target), first + np.arange(taps)[:, None]]


def _first_taps(matrix: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    return _taps(matrix, *args)[0].astype(np.int32)


def _tap_weights(matrix: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    return _taps(matrix, *args)[1].astype(np.float32)


def scaled_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """The shape of an image at a scale of the pyramid."""
    return tuple(max(1, round(side * scale)) for side in shape)  # type: ignore[return-value]
