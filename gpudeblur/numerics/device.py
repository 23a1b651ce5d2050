"""Real transforms on a CUDA device by FFT plans that are kept, and the state that a thread keeps of a device.

Imported only where there is a CuPy array, like `numerics.cuda`. A state belongs to the thread that uses it: two
streams would write into the work area of one plan, or into the memory of one graph, otherwise.
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
from .constants import NotReadyError, bound, capture, capture_lock, lasting_memory
from .cuda import launches

# Five starts on branches of their own take some two hundred plans a shape of picture. A plan costs about a millisecond
# and holds a work area of about a picture.
PLANS = 4096
SHARE = 1 / 8  # of the device's memory, for plans and for graphs
CAPTURE_ERRORS = range(900, 909)  # of stream captures: the device is well
DOUBLE = {"R2C": "D2Z", "C2R": "Z2D"}  # the kind of a plan in float64


_states: weakref.WeakSet[State] = weakref.WeakSet()


class State:
    """FFT plans and CUDA graphs (see `_graphs`) of one thread, by what they depend on, those used last at the end."""

    def __init__(self) -> None:
        _states.add(self)
        self.plans: OrderedDict[Hashable, Any] = OrderedDict()
        self.graphs: OrderedDict[Hashable, Any] = OrderedDict()
        self.contexts: OrderedDict[Hashable, Any] = OrderedDict()  # by device and stream
        self.context: Any = None  # the one whose function runs now
        self.failures: Counter[Hashable] = Counter()  # of captures, and for want of memory

    def clear(self) -> None:
        """Give back all memory."""
        for kept in (self.plans, self.graphs, self.contexts):
            kept.clear()


class _Thread(threading.local):
    def __init__(self) -> None:
        self.state = State()


_thread = _Thread()
idle: list[State] = []  # that no thread uses, see `groups`
idle_lock = threading.Lock()


def state() -> State:
    """The state of this thread."""
    return _thread.state


def use(state: State) -> None:
    """From now on this thread uses that state, which no other thread may use meanwhile."""
    _thread.state = state


def clear() -> None:
    """Give back what this thread's plans and graphs hold, those that no thread uses, and what no graph reads."""
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
    """Whether memory ran out: CuPy's pool, cuFFT, graphs, modules, pinned memory and torch have errors of their own."""
    if error is None:
        return False
    if isinstance(error, cufft.CuFFTError):
        return bool(error.result == 2)  # CUFFT_ALLOC_FAILED
    if isinstance(error, (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)):
        return bool(error.status == 2)  # cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY
    return isinstance(error, (MemoryError, *_of_torch())) or is_out_of_memory(error.__cause__)


def explanation(error: Exception) -> str | None:
    """What an error of CUDA means and what to do, with the GPU's name; None for other errors."""
    cuda = cupy.cuda
    of_cuda = (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError, cufft.CuFFTError)
    if not isinstance(error, (*of_cuda, cuda.memory.OutOfMemoryError, *_of_torch())):
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


def _of_torch() -> tuple[Any, ...]:
    """The error of a learned prior that finds no room."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.OutOfMemoryError,)


def _name() -> str:
    try:
        number = cupy.cuda.Device().id
        return f"GPU {number} ({cupy.cuda.runtime.getDeviceProperties(number)['name'].decode()})"
    except RuntimeError:
        return "the GPU"


# ------------------------------------------------------------------ transforms
def rfft2(x: Any, out: Any = None) -> Any:
    """`fourier.rfft2`, into `out` where there is one."""
    return _forward(x, x.shape[-2:], out)


def irfft2(x: Any, shape: tuple[int, int], out: Any = None) -> Any:
    """`fourier.irfft2` likewise; cuFFT leaves nothing of use in `x`."""
    return _inverse(x, shape, out)


def rfft(x: Any) -> Any:
    """`fourier.rfft`."""
    return _forward(x, x.shape[-1:], None)


def irfft(x: Any, length: int) -> Any:
    """`fourier.irfft` without its factor; cuFFT leaves nothing of use in `x`."""
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
    """`x`, or a copy: cuFFT takes C order, and real numbers by pairs."""
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
        There is none, and a CUDA graph is being captured: for some sizes cuFFT launches work of its own while it plans.
    """
    count = x.size // math.prod(x.shape[-len(sides) :])
    # The stream too: two of them must not write into one work area.
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
        bound(plans, PLANS, SHARE, lambda plan: plan.work_area.mem.size)
    capture.use(plan)
    return plan


def _new_plan(x: Any, kind: str, count: int, sides: tuple[int, ...]) -> Any:
    """Not by CuPy's get_fft_plan: it gives plans out of its own cache, whose work area is anyone's."""
    code = getattr(cufft, f"CUFFT_{kind if x.real.dtype == np.float32 else DOUBLE[kind]}")
    if len(sides) == 1:
        return cufft.Plan1d(sides[0], code, count)
    (h, w), half = sides, sides[1] // 2 + 1
    source, target = ((h, w), (h, half)) if kind == "R2C" else ((h, half), (h, w))
    strides = (source, 1, math.prod(source), target, 1, math.prod(target))
    return cufft.PlanNd(sides, *strides, code, count, "C", 2, target[1])
