"""Power spectra of periodic difference operators, and the inner product of spectra, as NumPy arrays."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


def difference_spectrum(length: int, count: int, dtype: Any) -> np.ndarray:
    """|F d|^2 = 4 sin^2(pi i / length) of the periodic forward difference d, at the first `count` frequencies i."""
    return (4 * np.sin(np.pi * np.arange(count) / length) ** 2).astype(dtype)


@functools.lru_cache(maxsize=16)
def gradient_spectrum(shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """|F(d/dx)|^2 + |F(d/dy)|^2 of periodic forward differences, (H, W // 2 + 1), a read-only array on the host."""
    h, w = shape
    rows, columns = difference_spectrum(h, h, np.float64), difference_spectrum(w, w // 2 + 1, np.float64)
    spectrum = (rows[:, None] + columns).astype(dtype)
    spectrum.flags.writeable = False
    return spectrum


def multiplicity(grid: tuple[int, int], dtype: Any) -> np.ndarray:
    """(W + 2,): how many numbers of the full spectrum each number of a row of `rfft2` stands for, times H W.

    With these weights the inner product of two spectra divided by H W, viewed as pairs of real numbers, is that of the
    images. All columns but the first and the last stand for two of the full spectrum.
    """
    size = grid[0] * grid[1]
    count = np.full(grid[1] + 2, 2 * size)
    count[[0, 1, -2, -1]] = size
    return count.astype(dtype)
