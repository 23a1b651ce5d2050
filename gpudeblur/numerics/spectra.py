"""Power spectra of periodic difference operators, as NumPy arrays."""

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
