"""Functions of a stack, a cache-sized number of images at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import Array, array_module

# Pixels of the pictures that NumPy takes through a scale together: some ten arrays of them are in use at a time.
CACHE_PIXELS = 1 << 19


def map_in_chunks(function: Callable[..., Any], *arrays: Array) -> Any:
    """`function` of arrays (n, ...): on NumPy so many pictures at a time as a core's cache holds, the first array's."""
    together = max(1, CACHE_PIXELS // max(1, arrays[0][0].size))
    if array_module(*arrays) is not np or len(arrays[0]) <= together:
        return function(*arrays)
    starts = range(0, len(arrays[0]), together)
    parts = [function(*(array[first : first + together] for array in arrays)) for first in starts]
    return tuple(np.concatenate(some) for some in zip(*parts, strict=True))
