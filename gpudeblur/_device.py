"""What the steps need of a CUDA device beside their own launches: FFT plans that are kept, and CUDA graphs.

Imported only from a branch that holds a CuPy array, like `_cuda`. Plans and graphs belong to the thread that made
them: their buffers would be written by two streams at once otherwise.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import cupy
import numpy as np
from cupyx.scipy.fftpack import get_fft_plan

from ._cuda import launches

# A pyramid takes some eight plans and one graph a scale, and has up to eight scales; five starts are as many pyramids,
# with a graph of each scale. A plan costs about a millisecond and holds a work area of about a picture; a graph holds
# the buffers of its scale.
PLANS, GRAPHS = 1024, 256
SHARE = 1 / 8  # of the device's memory, for either
GRAPH_PIXELS = 1 << 22  # on a larger stack, a launch takes longer than Python takes to ask for it


class _Kept(threading.local):
    def __init__(self) -> None:
        self.plans: OrderedDict[Hashable, Any] = OrderedDict()
        self.graphs: OrderedDict[Hashable, _Graph | None] = OrderedDict()  # None: asked for once
        self.failed: set[Hashable] = set()
        self.in_use: list[Any] | None = None  # the plans of the graph that is being captured


_kept = _Kept()


# ------------------------------------------------------------------ transforms
def rfft2(x: Any, out: Any = None) -> Any:
    """`fourier.rfft2` by a plan that is kept, into `out` where there is one."""
    x = cupy.ascontiguousarray(x)
    h, w = x.shape[-2:]
    kind = np.complex64 if x.dtype == np.float32 else np.complex128
    out = _target(out, (*x.shape[:-2], h, w // 2 + 1), kind)
    if x.size:
        _plan(x, "R2C", (h, w)).fft(x, out, -1)
        launches["cufft_r2c"] += 1
    return out


def irfft2(x: Any, shape: tuple[int, int], out: Any = None) -> Any:
    """`fourier.irfft2` likewise; cuFFT leaves nothing of use in `x`."""
    x = cupy.ascontiguousarray(x)
    kind = np.float32 if x.dtype == np.complex64 else np.float64
    out = _target(out, (*x.shape[:-2], *shape), kind)
    if x.size:
        _plan(x, "C2R", shape).fft(x, out, 1)
        launches["cufft_c2r"] += 1
    return out


def _target(out: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    if out is None:
        return cupy.empty(shape, dtype=dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be a C-contiguous {np.dtype(dtype)} array of shape {shape}, got {out.dtype} {out.shape}; "
            "leave it out for a fresh one"
        )
    return out


def _plan(x: Any, kind: str, shape: tuple[int, int]) -> Any:
    """The plan for transforming the last two axes of `x`; `shape` is that of the real array."""
    flat = x.reshape(-1, *x.shape[-2:])
    # The stream too: two of them must not write into one work area.
    key = (cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr, kind, len(flat), shape, x.dtype.char)
    plans = _kept.plans
    if key in plans:
        plans.move_to_end(key)
    else:
        plans[key] = get_fft_plan(flat, shape=shape, axes=(1, 2), value_type=kind)
        _bound(plans, PLANS, lambda plan: plan.work_area.mem.size)
    if _kept.in_use is not None:
        _kept.in_use.append(plans[key])
    return plans[key]


def _bound(kept: OrderedDict[Hashable, Any], count: int, size: Callable[[Any], int]) -> None:
    """Drops what was used longest ago where there is too much of it or it holds too many bytes; never the last two."""
    room = SHARE * cupy.cuda.Device().mem_info[1]
    sizes = [size(one) for one in kept.values()]
    while len(kept) > 2 and (len(kept) > count or sum(sizes) > room):
        kept.popitem(last=False)
        del sizes[0]


# ------------------------------------------------------------------ graphs
class _Graph:
    """A captured function: its own memory pool, the inputs and outputs in it, and the plans that it runs."""

    def __init__(self, function: Callable[..., Any], arrays: tuple[Any, ...]) -> None:
        self._pool = cupy.cuda.MemoryPool()  # what the function allots stays the graph's own, replay after replay
        self._stream = cupy.cuda.Stream(non_blocking=True)  # the default stream cannot capture
        with cupy.cuda.using_allocator(self._pool.malloc):
            self._inputs = tuple(cupy.empty(a.shape, dtype=a.dtype) for a in arrays)
            with _recorded_plans() as self._plans, self._stream:
                self._stream.begin_capture()
                try:
                    self._outputs = function(*self._inputs)
                except BaseException:
                    with suppress(Exception):  # the stream must leave capture, and the cause must be told
                        self._stream.end_capture()
                    raise
                self._graph = self._stream.end_capture()

    @property
    def size(self) -> int:
        return self._pool.total_bytes()

    def __call__(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        for mine, theirs in zip(self._inputs, arrays, strict=True):
            mine[...] = theirs
        self._graph.launch()
        launches["graph"] += 1
        return tuple(output.copy() for output in self._outputs)  # the next replay writes over them


@contextmanager
def _recorded_plans() -> Iterator[list[Any]]:
    plans: list[Any] = []
    _kept.in_use = plans
    try:
        yield plans
    finally:
        _kept.in_use = None


def replay(key: Hashable, function: Callable[..., tuple[Any, ...]], *arrays: Any) -> tuple[Any, ...]:
    """`function(*arrays)`, as one CUDA graph from the second time on that it is asked for under this `key`.

    The function must be decided by the key and its arrays' shapes, wait for nothing, and return a tuple of arrays. The
    first time it runs as it is: that compiles, plans and uploads what a capture may not. A stack of over GRAPH_PIXELS
    never becomes a graph. Where the capture fails, a RuntimeWarning says why, and the function runs as it is.
    """
    key = (cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr, key, *((a.shape, a.dtype.char) for a in arrays))
    if math.prod(arrays[0].shape) > GRAPH_PIXELS or key in _kept.failed:
        return function(*arrays)
    graphs = _kept.graphs
    if key not in graphs:
        graphs[key] = None
        _bound(graphs, GRAPHS, lambda graph: graph.size if graph else 0)
        return function(*arrays)
    graphs.move_to_end(key)
    if (graph := graphs[key]) is None:
        try:
            graph = graphs[key] = _Graph(function, arrays)
        except (RuntimeError, MemoryError) as why:  # CUDA's own errors are RuntimeErrors
            _kept.failed.add(key)
            warnings.warn(f"CUDA graph not captured, launching one by one instead: {why}", RuntimeWarning, stacklevel=2)
            return function(*arrays)
        _bound(graphs, GRAPHS, lambda graph: graph.size if graph else 0)
    return graph(arrays)


def clear() -> None:
    """Gives back what this thread's plans and graphs hold."""
    _kept.plans.clear()
    _kept.graphs.clear()
    _kept.failed.clear()
