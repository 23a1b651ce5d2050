"""Arrays that depend on sizes alone, kept on each device: sent there once, and complete before anyone reads them.

Imported only where there is a CuPy array, like `numerics.cuda`. What a CUDA graph reads must live as long as the
graph, and a capture can neither send an array nor plan a transform: `capture` is where both are looked after.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any

import cupy
import numpy as np

CONSTANTS = 1024  # arrays; five starts take some sixty a shape of picture
SHARE = 1 / 32  # of the device's memory


class Capture(threading.local):
    """Whether this thread captures a CUDA graph: the constants and plans that the graph uses, by id, or None."""

    uses: dict[int, Any] | None = None

    def use(self, item: Any) -> None:
        """Keep `item` as long as the graph that is being captured, if one is."""
        if self.uses is not None:
            self.uses[id(item)] = item


capture = Capture()

# Held while a graph is captured or a plan is made: neither is to come into the other, in another thread.
capture_lock = threading.RLock()


class NotReadyError(RuntimeError):
    """A capture needs an array or a plan that must be made before it begins."""


_kept: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.Lock()
_total_bytes: dict[int, int] = {}


def on_device(make: Callable[..., np.ndarray], *args: Hashable) -> Any:
    """What `make(*args)` returns, as an array on the current device that no one may write to.

    Parameters
    ----------
    make : a function of its arguments alone that returns a NumPy array.

    Raises
    ------
    NotReadyError
        The array is not there yet, and a CUDA graph is being captured.
    """
    key = (cupy.cuda.Device().id, make, args)
    with _lock:
        array = _kept.get(key)
        if array is not None:
            _kept.move_to_end(key)
    if array is None:
        if capture.uses is not None:
            raise NotReadyError(f"{make.__name__}{args} is not on the device yet")
        # Not of a pool, which does not know that other streams may still read what is given back.
        with cupy.cuda.using_allocator(None):
            array = cupy.asarray(make(*args), blocking=True)  # complete, whichever stream reads it
        with _lock:
            array = _kept.setdefault(key, array)
            bound(_kept, CONSTANTS, SHARE, lambda array: array.nbytes)
    capture.use(array)
    return array


def lasting_memory() -> AbstractContextManager[None]:
    """What is allotted now is not part of the memory that graphs share, which a capture is to find as a run left it."""
    return cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc)


def bound(items: OrderedDict[Hashable, Any], count: int, share: float, size: Callable[[Any], int]) -> None:
    """Drop what was used longest ago where there is more than `count`, or than that share of the device's memory."""
    room = share * total_bytes()
    sizes = [size(item) for item in items.values()]
    total = sum(sizes)
    for oldest in sizes:
        if len(items) <= 2 or (len(items) <= count and total <= room):
            return
        items.popitem(last=False)
        total -= oldest


def total_bytes() -> int:
    """Bytes of the current device's memory; the driver is asked once, as its answer can take milliseconds."""
    number = cupy.cuda.Device().id
    if number not in _total_bytes:
        _total_bytes[number] = cupy.cuda.Device().mem_info[1]
    return _total_bytes[number]


def clear() -> None:
    """Forget all arrays; a CUDA graph keeps those that it reads."""
    with _lock:
        _kept.clear()
