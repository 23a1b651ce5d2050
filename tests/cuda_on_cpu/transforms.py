"""cuFFT on the fake device: plans with their work areas, and the cache that CuPy keeps of them."""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import scipy.fft

from . import arrays, memory
from .arrays import DeviceArray, check_dtype
from .streams import activity, check_device, counts, current_stream, launched, lock, operation

TRANSFORMS = {
    prefix + name + axes for prefix in ("", "i") for name in ("fft", "rfft", "hfft") for axes in ("", "2", "n")
} | {prefix + name + axes for prefix in ("", "i") for name in ("dct", "dst") for axes in ("", "n")}  # fmt: skip


class CuFFTError(RuntimeError):
    def __init__(self, result: int, message: str = "") -> None:
        super().__init__(message or f"cuFFT error {result}")
        self.result = result


class Handle:
    """What a graph knows of a plan."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.destroyed = False


class Plan:
    """A work area of `size` bytes; a transform writes to all of it."""

    def __init__(self, size: int) -> None:
        check_device()
        if current_stream().capture is not None:
            activity["capture plans"] += 1
            raise RuntimeError("a cuFFT plan cannot be made when stream is capturing")
        counts["plans"] += 1
        self.work_area = memory.allocate(size)
        self.handle = Handle(self.work_area.mem.block)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self.handle.destroyed = True

    def used(self) -> list[Any]:
        """The blocks of memory that a transform writes to, which is about to run or to be captured."""
        capture = current_stream().capture
        if capture is not None:
            capture.plans.add(self.handle)
        return [self.handle.block]


class RealPlan(Plan):
    """A plan for real transforms of C-contiguous arrays over all axes but the first; `real` is the real dtype."""

    def __init__(self, count: int, shape: tuple[int, ...], value_type: str, real: np.dtype) -> None:
        super().__init__(count * math.prod(shape) * real.itemsize)
        self.shape, self.value_type = (count, *shape), value_type
        pairs = np.result_type(real, np.complex64)
        spectrum = ((*self.shape[:-1], shape[-1] // 2 + 1), pairs)
        self._from, self._to = ((self.shape, real), spectrum) if value_type == "R2C" else (spectrum, (self.shape, real))

    def fft(self, a: DeviceArray, out: DeviceArray, direction: int) -> None:
        with lock:
            activity["calls"] += 1
            for array, (shape, dtype) in ((a, self._from), (out, self._to)):
                if array.dtype != dtype or array.size != math.prod(shape) or not array.flags.c_contiguous:
                    raise CuFFTError(4, f"the plan is for {dtype} {shape} in C order, got {array.dtype} {array.shape}")
                if array.data.ptr % (2 * array.array.real.dtype.itemsize):
                    raise CuFFTError(4, "real arrays must be aligned as complex ones are")
            if direction != {"R2C": -1, "C2R": 1}[self.value_type]:
                raise CuFFTError(4, f"the direction of {self.value_type} is not {direction}")
            stream, written = current_stream(), self.used()
            written += [array.memory.block for array in ((out,) if self.value_type == "R2C" else (a, out))]
            operation(stream, [a.memory.block], written)
            counts["transforms"] += 1
            counts["bytes"] += a.nbytes + out.nbytes
            source, target = a.array.reshape(self._from[0]), out.array.reshape(self._to[0])
            transform = functools.partial(_transform, source, target, self.shape[1:])
            transform()
            launched(stream, transform)


CODES = {"CUFFT_R2C": 0x2A, "CUFFT_C2R": 0x2C, "CUFFT_D2Z": 0x6A, "CUFFT_Z2D": 0x6C}
KINDS = {0x2A: ("R2C", "f4"), 0x2C: ("C2R", "f4"), 0x6A: ("R2C", "f8"), 0x6C: ("C2R", "f8")}


class PlanNd(RealPlan):
    """As CuPy makes it for batches along the first axis; other layouts are refused."""

    def __init__(
        self, shape: Any, inembed: Any, istride: int, idist: int, onembed: Any, ostride: int, odist: int,
        fft_type: int, batch: int, order: str, last_axis: int, last_size: int | None,
    ) -> None:  # fmt: skip
        value_type, real = KINDS[fft_type]
        half = (*shape[:-1], shape[-1] // 2 + 1)
        source, target = (shape, half) if value_type == "R2C" else (half, shape)
        layout = (tuple(inembed), istride, idist, tuple(onembed), ostride, odist, order, last_axis, last_size)
        expected = (source, 1, math.prod(source), target, 1, math.prod(target), "C", len(shape), target[-1])
        if layout != expected:
            raise NotImplementedError(f"the fake plans {expected}, not {layout}")
        super().__init__(batch, tuple(shape), value_type, np.dtype(real))


class Plan1d(RealPlan):
    def __init__(self, nx: int, fft_type: int, batch: int) -> None:
        value_type, real = KINDS[fft_type]
        super().__init__(batch, (nx,), value_type, np.dtype(real))


def _transform(source: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> None:
    axes = tuple(range(1, source.ndim))
    if source.dtype.kind == "f":
        target[...] = scipy.fft.rfftn(source, axes=axes)
    else:
        target[...] = scipy.fft.irfftn(source, shape, axes=axes, norm="forward")
        source[...] = np.nan


class PlanCache:
    """The plans that a thread used last, as many as CuPy keeps by default, and its readings of the limits."""

    def __init__(self) -> None:
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()

    def get_size(self) -> int:
        return 16

    def get_memsize(self) -> int:
        return -1

    def clear(self) -> None:
        self._plans.clear()

    def plan(self, key: Hashable, size: int) -> Plan:
        plan = self._plans.pop(key, None) or Plan(size)
        self._plans[key] = plan
        if len(self._plans) > self.get_size():
            self._plans.popitem(last=False)
        return plan


class _Thread(threading.local):
    def __init__(self) -> None:
        self.cache = PlanCache()


_thread = _Thread()


def get_plan_cache() -> PlanCache:
    return _thread.cache


def reset() -> None:
    """No thread has plans."""
    global _thread
    _thread = _Thread()


def cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `scipy.fft` or `numpy.fft` by the plans of the cache."""

    @functools.wraps(function)
    def transform(a: DeviceArray, *args: Any, **kwargs: Any) -> Any:
        with lock:
            if not isinstance(a, DeviceArray):
                raise TypeError(f"Unsupported type {type(a)}")
            check_dtype(a.dtype)
            key = (function.__name__, a.shape, a.dtype.char, repr(args), repr(sorted(kwargs.items())))
            plan = _thread.cache.plan(key, a.nbytes)
            return arrays.perform(function, (a, *args), kwargs, plan.used())

    return transform
