"""Functions of a stack, computed for as many images at a time as the cache holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import Array, array_module

# Pixels of the images in a chunk: some ten arrays of them are in use at a time.
CACHE_PIXELS = 1 << 19


def map_in_chunks(function: Callable[..., Any], *arrays: Array) -> Any:
    """`function` of arrays (n, ...), on NumPy in chunks of CACHE_PIXELS of the first array; it returns a tuple."""
    length = max(1, CACHE_PIXELS // max(1, arrays[0][0].size))
    if array_module(*arrays) is not np or len(arrays[0]) <= length:
        return function(*arrays)
    starts = range(0, len(arrays[0]), length)
    results = [function(*(array[start : start + length] for array in arrays)) for start in starts]
    return tuple(np.concatenate(chunks) for chunks in zip(*results, strict=True))
