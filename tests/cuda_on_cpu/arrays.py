"""Arrays of the fake device, and NumPy's functions on them.

As strict as CuPy: no implicit conversion, no NumPy array among the operands, no dtype that a GPU lacks, and whatever
makes CuPy wait or call cuBLAS is refused where a stream is captured. Fresh memory holds NaN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from . import memory, streams
from .memory import MemoryPointer
from .streams import activity, check_device, counts, current_stream, launched, lock, operation, wait

# Sorting is Thrust's, which waits; the other functions need a number of the device to go on.
WAITING = {
    "argpartition", "argsort", "argwhere", "bincount", "compress", "extract", "flatnonzero", "histogram", "lexsort",
    "median", "nanmedian", "nanpercentile", "nanquantile", "nonzero", "partition", "percentile", "quantile", "sort",
    "unique",
}  # fmt: skip
PRODUCTS = {"dot", "einsum", "inner", "matmul", "tensordot", "vdot"}
JOINS, JOINED = {"concatenate", "stack", "hstack", "vstack", "dstack", "column_stack"}, 8
IN_PLACE = {"__setitem__", "copyto", "fill", "fill_diagonal", "partition", "place", "put", "putmask", "sort"}
ANSWERS = {"allclose", "array_equal"}  # as bools on the device, where NumPy has Python's


def check_dtype(dtype: np.dtype) -> None:
    if not dtype.isnative:
        raise ValueError(f"Unsupported dtype {dtype} with big-endian byte-order")
    if dtype.char not in "?bhilqBHILQefdFD":
        raise ValueError(f"Unsupported dtype {dtype}")


NUMBERS = (bool, int, float, complex)  # CuPy takes no types derived from these


def host(value: Any, arrays: list[DeviceArray]) -> Any:
    """What a wrapped function gets, NumPy arrays for device arrays; a NumPy array itself is an error, as in CuPy."""
    if isinstance(value, DeviceArray):
        arrays.append(value)
        return value.array
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)):
        return type(value)([host(item, arrays) for item in value])
    if isinstance(value, (int, float, complex)) and type(value) not in NUMBERS and not isinstance(value, np.generic):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def empty(shape: Any, dtype: Any = float, order: Any = "C", strides: Any = None) -> DeviceArray:
    """An array in memory of the current allocator, with whatever is there."""
    dtype = np.dtype(dtype)
    check_dtype(dtype)
    sides = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    mem = memory.allocate(math.prod(sides) * dtype.itemsize).mem
    return DeviceArray(np.ndarray(sides, dtype, mem.block.buffer, strides=strides, order=order), mem)


def like(values: np.ndarray, function: Any) -> DeviceArray:
    """An array for these values: in C order where a ufunc made them, as CuPy does, else in their own."""
    fortran = values.flags.f_contiguous and not values.flags.c_contiguous and not isinstance(function, np.ufunc)
    return empty(values.shape, values.dtype, "F" if fortran else "C")


def poisoned(shape: Any, dtype: Any = float, order: str = "C") -> DeviceArray:
    with lock:
        check_device()
        activity["calls"] += 1
        counts["allocations"] += 1
        out = empty(shape, dtype, order)
        out.memory.block.buffer[...] = 0xFF
        return out


def poisoned_like(array: DeviceArray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> Any:
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous and shape is None and order == "K"
    return poisoned(array.shape if shape is None else shape, dtype or array.dtype, "F" if fortran else "C")


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function of NumPy on device arrays; in a capture it is put down, to be run again."""
    return perform(function, args, kwargs, ())


def perform(function: Any, args: Sequence[Any], kwargs: dict[str, Any], work_areas: Sequence[Any]) -> Any:
    """`run` with memory that the function needs besides, which it writes to."""
    with lock:
        check_device()
        activity["calls"] += 1
        arrays: list[DeviceArray] = []
        plain = [host(value, arrays) for value in args]
        named = {key: host(value, arrays) for key, value in kwargs.items()}
        name, stream = getattr(function, "__name__", ""), current_stream()
        waits = name in WAITING or (name == "where" and len(args) == 1)
        sends = name in JOINS and len(args[0]) > JOINED  # the addresses of the arrays
        if sends:
            counts["uploads"] += 1
        if stream.capture is not None:
            if sends:
                raise RuntimeError(f"{name} of so many arrays sends their addresses: not permitted in a capture")
            if name in PRODUCTS:
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            if waits:
                raise RuntimeError(f"{name} waits: operation not permitted when stream is capturing")
        again = functools.partial(function, *plain, **named)
        reads = [array.memory.block for array in arrays]
        targets = _targets(function, name, args, kwargs)
        if targets:
            operation(stream, reads, [*(target.memory.block for target in targets), *work_areas])
            with np.errstate(all="ignore"):
                again()
            launched(stream, again)
            result: Any = None if name in IN_PLACE else targets[0]
        else:
            with np.errstate(all="ignore"):
                result = _on_device(again(), arrays, again, [*work_areas], name)
        if waits:
            wait(stream)
        return result


def _targets(function: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> list[DeviceArray]:
    """The arrays that a function is told to write to."""
    if name in IN_PLACE and (name not in WAITING or getattr(function, "__objclass__", None) is np.ndarray):
        return [args[0]]
    out = kwargs.get("out", kwargs.get("output"))
    if out is None and isinstance(function, np.ufunc):
        out = args[function.nin :]
    return [out] if isinstance(out, DeviceArray) else [a for a in out or () if isinstance(a, DeviceArray)]


def _on_device(
    result: Any, arrays: list[DeviceArray], again: functools.partial[Any], work_areas: list[Any], name: str
) -> Any:
    """What CuPy would return: views of the arguments, and fresh arrays that one launch writes."""
    if name in ANSWERS:
        result = np.asarray(result)
    single = not isinstance(result, (tuple, list))
    items = [result] if single else list(result)
    fresh: list[tuple[int, np.ndarray, DeviceArray]] = []
    for i, item in enumerate(items):
        if isinstance(item, (np.ndarray, np.generic)):
            values = np.asarray(item)
            items[i] = _argument(values, arrays)
            if items[i] is None:
                items[i] = like(values, again.func)
                fresh.append((i, values, items[i]))
    if fresh:
        stream = current_stream()
        reads = [array.memory.block for array in arrays]
        operation(stream, reads, [*(array.memory.block for *_, array in fresh), *work_areas])
        targets = [(i, array.array) for i, _, array in fresh]
        for (_, target), (_, values, _) in zip(targets, fresh, strict=True):
            np.copyto(target, values)
        counts["allocations"] += len(fresh)

        def repeat() -> None:
            values = again()
            for i, target in targets:
                np.copyto(target, values if single else values[i])

        launched(stream, repeat)
    return items[0] if single else type(result)(items)


def _argument(values: np.ndarray, arrays: list[DeviceArray]) -> DeviceArray | None:
    """The argument that the values are, or a view of the one whose memory they are in."""
    for array in arrays:
        if values is array.array:
            return array
    if values.base is not None:
        for array in arrays:
            if np.may_share_memory(values, array.array):
                return DeviceArray(values, array.memory, array)
    return None


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, array: np.ndarray, memory: Any, base: DeviceArray | None = None) -> None:
        self.array, self.memory = array, memory
        self.base: DeviceArray | None = base if base is None or base.base is None else base.base
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        if function is np.ndim:
            return self.ndim
        raise TypeError(f"numpy.{function.__name__} of a device array; call the array module's")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if isinstance(out := kwargs.get("out"), tuple):
            kwargs["out"] = out[0] if len(out) == 1 else out
        return run(ufunc if method == "__call__" else getattr(ufunc, method), *inputs, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # among them what NumPy would convert by
            raise AttributeError(name)
        value = getattr(self.array, name)
        if isinstance(value, np.ndarray):
            return run(getattr, self, name)
        if callable(value):
            return functools.partial(run, getattr(np.ndarray, name), self)
        return value

    @property
    def data(self) -> MemoryPointer:
        offset = self.array.__array_interface__["data"][0] - self.memory.block.buffer.__array_interface__["data"][0]
        return MemoryPointer(self.memory, offset if self.array.size else 0)

    @property
    def device(self) -> Any:
        from .device import Device

        return Device()

    def __getitem__(self, index: Any) -> DeviceArray:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, DeviceArray) and part.dtype == np.bool_ for part in parts):
            with lock:
                wait(current_stream())
        # Without an ellipsis NumPy gives a number for an element, where CuPy gives a view.
        if not any(part is Ellipsis for part in parts):
            index = (*parts, Ellipsis)
        return run(np.ndarray.__getitem__, self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        run(np.ndarray.__setitem__, self, index, value)

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[i] for i in range(len(self)))

    def get(
        self, stream: Any = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True
    ) -> np.ndarray:
        with lock:
            activity["calls"] += 1
            stream = current_stream() if stream is None else stream
            if stream.capture is not None:
                raise RuntimeError("the current stream is capturing, so synchronous API calls are disallowed")
            operation(stream, [self.memory.block], ())
            if out is not None and (out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous):
                raise ValueError(f"out must be a C-contiguous {self.dtype} array of shape {self.shape}")
            if blocking or out is None or not memory.is_pinned(out):
                wait(stream)
                if out is None:
                    return self.array.copy(order)  # type: ignore[arg-type]
                out[...] = self.array
            else:
                streams.download(stream, out, self.array.copy())
            return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        with lock:
            activity["calls"] += 1
            stream = current_stream() if stream is None else stream
            if stream.capture is not None:
                raise RuntimeError("the current stream is capturing, so synchronous API calls are disallowed")
            if not isinstance(arr, np.ndarray):
                raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
            if arr.dtype != self.dtype:
                raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
            if arr.shape != self.shape:
                raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
            if not self.array.flags.c_contiguous:
                raise RuntimeError("Cannot set to non-contiguous array")
            operation(stream, (), [self.memory.block])
            counts["uploads"] += 1
            self.array[...] = arr


def _converted(name: str) -> Callable[..., Any]:
    return lambda self, *args: getattr(self.get(), name)(*args)


CONVERSIONS = ("__bool__", "__complex__", "__float__", "__format__", "__index__", "__int__", "__repr__")
for _name in ("item", "tolist", *CONVERSIONS):
    setattr(DeviceArray, _name, _converted(_name))


def array(value: Any, dtype: Any = None, copy: bool = True, order: str = "K", *, blocking: bool = False) -> DeviceArray:
    if isinstance(value, DeviceArray):
        return value.astype(value.dtype if dtype is None else dtype, copy=copy)
    if isinstance(value, (tuple, list)) and any(isinstance(item, DeviceArray) for item in value):
        return run(np.array, value, dtype)
    with lock:
        check_device()
        activity["calls"] += 1
        if dtype is not None:
            check_dtype(np.dtype(dtype))
        values = np.array(value, dtype)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        check_dtype(values.dtype)
        stream = current_stream()
        if stream.capture is not None:
            raise RuntimeError("an upload needs memory of the host that waits: not permitted when stream is capturing")
        counts["uploads"] += values.ndim > 0
        out = like(values, None)
        operation(stream, (), [out.memory.block])
        out.array[...] = values
        if blocking:
            wait(stream, counted=False)  # it is among the uploads
        return out


def asarray(value: Any, dtype: Any = None, order: str = "K", *, blocking: bool = False) -> DeviceArray:
    return array(value, dtype, False, order, blocking=blocking)


def ascontiguousarray(value: Any, dtype: Any = None) -> DeviceArray:
    if isinstance(value, DeviceArray) and value.array.flags.c_contiguous and dtype in (None, value.dtype):
        return value
    return run(np.ascontiguousarray, asarray(value), dtype)


def asnumpy(value: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return value.get(stream, order, out, blocking) if isinstance(value, DeviceArray) else np.asarray(value, order=order)  # type: ignore[call-overload]
