"""A cache of device arrays that depend on sizes alone, and the bookkeeping of what a CUDA graph reads.

Imported only on branches that hold a CuPy array, like `numerics.cuda`. A CUDA graph needs its constants and FFT plans
as long as it lives, and its capture can create neither: `capture` records their use, and `NotReadyError` their absence.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any

import cupy
import numpy as np

MAX_CONSTANTS = 1024  # the five initializations take some sixty arrays for each shape of image
MEMORY_FRACTION = 1 / 32  # of the device's memory


class Capture(threading.local):
    """The constants and plans, by id, that the CUDA graph uses which this thread captures; None outside a capture."""

    uses: dict[int, Any] | None = None

    def use(self, item: Any) -> None:
        """Make the graph that is being captured, if any, keep `item` alive."""
        if self.uses is not None:
            self.uses[id(item)] = item


capture = Capture()

# Held while a graph is captured or a plan is made, so that no thread makes a plan during a capture.
capture_lock = threading.RLock()


class NotReadyError(RuntimeError):
    """A capture needs an array or a plan that does not exist yet."""


_constants: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.Lock()
_total_bytes: dict[int, int] = {}


def on_device(make: Callable[..., np.ndarray], *args: Hashable) -> Any:
    """`make(*args)` as a read-only array on the current device, sent there at the first request.

    Parameters
    ----------
    make : a pure function that returns a NumPy array.

    Raises
    ------
    NotReadyError
        The first request comes during the capture of a CUDA graph.
    """
    key = (cupy.cuda.Device().id, make, args)
    with _lock:
        array = _constants.get(key)
        if array is not None:
            _constants.move_to_end(key)
    if array is None:
        if capture.uses is not None:
            raise NotReadyError(f"{make.__name__}{args} is not on the device yet")
        # Not from a pool, which could reuse the memory while other streams still read it.
        with cupy.cuda.using_allocator(None):
            array = cupy.asarray(make(*args), blocking=True)  # complete, whichever stream reads it
        with _lock:
            array = _constants.setdefault(key, array)
            limit_size(_constants, MAX_CONSTANTS, MEMORY_FRACTION, lambda array: array.nbytes)
    capture.use(array)
    return array


def lasting_memory() -> AbstractContextManager[None]:
    """Allocate from CuPy's default pool, not from the memory that graphs share, which a capture must find unchanged."""
    return cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc)


def limit_size(
    items: OrderedDict[Hashable, Any], max_items: int, memory_fraction: float, size: Callable[[Any], int]
) -> None:
    """Drop the least recently used items beyond `max_items` or a fraction of the device's memory; two always stay."""
    max_bytes = memory_fraction * total_bytes()
    sizes = [size(item) for item in items.values()]
    total = sum(sizes)
    for oldest in sizes:
        if len(items) <= 2 or (len(items) <= max_items and total <= max_bytes):
            return
        items.popitem(last=False)
        total -= oldest


def total_bytes() -> int:
    """Bytes of the current device's memory, cached: the driver may take milliseconds to answer."""
    index = cupy.cuda.Device().id
    if index not in _total_bytes:
        _total_bytes[index] = cupy.cuda.Device().mem_info[1]
    return _total_bytes[index]


def clear() -> None:
    """Empty the cache; CUDA graphs keep the arrays that they read."""
    with _lock:
        _constants.clear()
