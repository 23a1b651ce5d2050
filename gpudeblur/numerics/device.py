"""Real transforms on a CUDA device with cached FFT plans, and the cache of plans and graphs of each thread.

Imported only on branches that hold a CuPy array, like `numerics.cuda`. Threads do not share caches, because two streams
would write into the work area of one plan, or into the memory of one graph.
"""

from __future__ import annotations

import atexit
import math
import sys
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import cupy
import numpy as np
from cupy.cuda import cufft

from . import constants
from .constants import NotReadyError, capture, capture_lock, lasting_memory, limit_size
from .cuda import launches

# The five initializations on parallel branches take some two hundred plans for each shape of image. A plan takes about
# a millisecond to make and holds a work area of about the size of the images.
MAX_PLANS = 4096
MEMORY_FRACTION = 1 / 8  # of the device's memory, for plans and for graphs
CAPTURE_ERRORS = range(900, 909)  # of stream captures, after which the device still works
FLOAT64_KINDS = {"R2C": "D2Z", "C2R": "Z2D"}


_states: weakref.WeakSet[State] = weakref.WeakSet()


class State:
    """FFT plans and CUDA graphs (`cuda_graphs`) of one thread, the least recently used first."""

    def __init__(self) -> None:
        _states.add(self)
        self.plans: OrderedDict[Hashable, Any] = OrderedDict()
        self.graphs: OrderedDict[Hashable, Any] = OrderedDict()
        self.contexts: OrderedDict[Hashable, Any] = OrderedDict()  # by device and stream
        self.context: Any = None  # the one whose function is running
        self.failures: Counter[Hashable] = Counter()  # to capture a graph, or to allocate its memory

    def clear(self) -> None:
        """Free all memory."""
        for cache in (self.plans, self.graphs, self.contexts):
            cache.clear()


class _Thread(threading.local):
    def __init__(self) -> None:
        self.state = State()


_thread = _Thread()
idle: list[State] = []  # the states that no thread uses, see `batch.gpu`
idle_lock = threading.Lock()


def state() -> State:
    """The state of this thread."""
    return _thread.state


def use(state: State) -> None:
    """Make `state`, which no other thread may use meanwhile, the state of this thread."""
    _thread.state = state


def clear() -> None:
    """Free the plans and graphs of this thread, those of idle states, and the cached constants."""
    _thread.state.clear()
    with idle_lock:
        for state in idle:
            state.clear()
    constants.clear()


@atexit.register
def _clear_at_exit() -> None:
    for state in list(_states):
        with suppress(Exception):  # CUDA may be gone
            state.clear()
    constants.clear()


# ------------------------------------------------------------------ errors
def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out. CuPy's pool, cuFFT, graphs, modules, pinned memory and torch raise different errors."""
    if error is None:
        return False
    if isinstance(error, cufft.CuFFTError):
        return bool(error.result == 2)  # CUFFT_ALLOC_FAILED
    if isinstance(error, (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)):
        return bool(error.status == 2)  # cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY
    return isinstance(error, (MemoryError, *_torch_errors())) or is_out_of_memory(error.__cause__)


def explanation(error: Exception) -> str | None:
    """The message for a CUDA error, with the GPU's name and a way out; None for other errors."""
    cuda = cupy.cuda
    cuda_errors = (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError, cufft.CuFFTError)
    if not isinstance(error, (*cuda_errors, cuda.memory.OutOfMemoryError, *_torch_errors())):
        return None
    if getattr(error, "status", None) in CAPTURE_ERRORS:
        return None
    if is_out_of_memory(error):
        return (
            f"{_name()} is out of memory ({error}); pass fewer or smaller pictures at a time, deconvolve with "
            'tile="auto", free what else is on the GPU, or use device="cpu"'
        )
    return (
        f"{_name()} does not answer as it should, CUDA says: {error}; start Python anew, since a GPU that failed "
        'refuses all further work of a process, or use device="cpu" there'
    )


def _torch_errors() -> tuple[Any, ...]:
    """The error of a learned prior when memory runs out."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.OutOfMemoryError,)


def _name() -> str:
    try:
        index = cupy.cuda.Device().id
        return f"GPU {index} ({cupy.cuda.runtime.getDeviceProperties(index)['name'].decode()})"
    except RuntimeError:
        return "the GPU"


# ------------------------------------------------------------------ transforms
def rfft2(x: Any, out: Any = None) -> Any:
    """`fourier.rfft2`, into `out` if it is given."""
    return _forward(x, x.shape[-2:], out)


def irfft2(x: Any, shape: tuple[int, int], out: Any = None) -> Any:
    """`fourier.irfft2` likewise; the contents of `x` are undefined afterwards."""
    return _inverse(x, shape, out)


def rfft(x: Any) -> Any:
    """`fourier.rfft`."""
    return _forward(x, x.shape[-1:], None)


def irfft(x: Any, length: int) -> Any:
    """`fourier.irfft` times `length`; the contents of `x` are undefined afterwards."""
    return _inverse(x, (length,), None)


def _forward(x: Any, sides: tuple[int, ...], out: Any) -> Any:
    x = _aligned(x)
    dtype = np.complex64 if x.dtype == np.float32 else np.complex128
    out = _target(out, (*x.shape[:-1], x.shape[-1] // 2 + 1), dtype)
    if x.size:
        _plan(x, "R2C", sides).fft(*_flat(x, out, len(sides)), -1)
        launches["cufft_r2c"] += 1
    return out


def _inverse(x: Any, sides: tuple[int, ...], out: Any) -> Any:
    x = _aligned(x)
    dtype = np.float32 if x.dtype == np.complex64 else np.float64
    out = _target(out, (*x.shape[: -len(sides)], *sides), dtype)
    if x.size:
        _plan(x, "C2R", sides).fft(*_flat(x, out, len(sides)), 1)
        launches["cufft_c2r"] += 1
    return out


def _aligned(x: Any) -> Any:
    """`x`, or a copy if its order or address does not suit cuFFT: C order, reals aligned to pairs."""
    x = cupy.ascontiguousarray(x)
    return x.copy() if x.data.ptr % (2 * x.real.dtype.itemsize) else x


def _flat(x: Any, out: Any, axes: int) -> tuple[Any, Any]:
    return x.reshape(-1, *x.shape[-axes:]), out.reshape(-1, *out.shape[-axes:])


def _target(out: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    if out is None:
        return cupy.empty(shape, dtype=dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be a C-contiguous {np.dtype(dtype)} array of shape {shape}, got {out.dtype} {out.shape}; "
            "leave it out for a fresh one"
        )
    return out


def _plan(x: Any, kind: str, sides: tuple[int, ...]) -> Any:
    """The plan for transforming the last axes of `x`, C-contiguous; `sides` are those of the real array.

    Raises
    ------
    NotReadyError
        The plan does not exist and cannot be made during the capture of a CUDA graph: for some sizes cuFFT launches
        kernels while it plans.
    """
    count = x.size // math.prod(x.shape[-len(sides) :])
    # Two streams must not write into one work area.
    key = (cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr, kind, count, sides, x.dtype.char)
    plans = _thread.state.plans
    plan = plans.get(key)
    if plan is not None:
        plans.move_to_end(key)
    elif capture.uses is not None:
        raise NotReadyError(f"there is no {kind} plan for {count} x {sides} yet")
    else:
        with lasting_memory(), capture_lock:
            plan = plans[key] = _new_plan(x, kind, count, sides)
            # cuFFT sends its tables on the legacy stream, for which a non-blocking one does not wait.
            cupy.cuda.Stream.null.synchronize()
        limit_size(plans, MAX_PLANS, MEMORY_FRACTION, lambda plan: plan.work_area.mem.size)
    capture.use(plan)
    return plan


def _new_plan(x: Any, kind: str, count: int, sides: tuple[int, ...]) -> Any:
    """A plan that does not share its work area, unlike those of CuPy's get_fft_plan, which are cached."""
    code = getattr(cufft, f"CUFFT_{kind if x.real.dtype == np.float32 else FLOAT64_KINDS[kind]}")
    if len(sides) == 1:
        return cufft.Plan1d(sides[0], code, count)
    (h, w), half = sides, sides[1] // 2 + 1
    source, target = ((h, w), (h, half)) if kind == "R2C" else ((h, half), (h, w))
    strides = (source, 1, math.prod(source), target, 1, math.prod(target))
    return cufft.PlanNd(sides, *strides, code, count, "C", 2, target[1])
