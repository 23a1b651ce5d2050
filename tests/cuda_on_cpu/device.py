"""A CuPy that computes on the CPU: NumPy arrays behind CuPy's manners, CUDA kernels through the shim.

For tests of the device path as a whole. It is as strict as CuPy: no implicit conversion, no NumPy array among the
operands, cuFFT's inverse leaves rubbish in its input, fresh memory holds NaN. It counts what a GPU would have to do
(bytes: each array of a launch or a transform once) and what the host would have to wait for; a captured stream refuses
to wait, and its graph runs again on the arrays it saw.
"""

from __future__ import annotations

import collections
import functools
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage

counts: collections.Counter[str] = collections.Counter()
recording: list[Callable[[], None]] | None = None


def host(value: Any) -> Any:
    """What a wrapped function gets: NumPy arrays for device arrays; a NumPy array itself is an error, as in CuPy."""
    if isinstance(value, DeviceArray):
        return value.array
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)):
        return type(value)(map(host, value))
    if isinstance(value, dict):
        return {key: host(one) for key, one in value.items()}
    return value


def device(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return DeviceArray(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(device, value))
    return value


def waits() -> None:
    """The host waits for the device."""
    if recording is not None:
        raise RuntimeError("operation not permitted when stream is capturing")
    counts["waits"] += 1


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function of NumPy on device arrays; while a stream is captured, it is put down to be run again."""
    args, kwargs = host(args), host(kwargs)
    result = function(*args, **kwargs)
    inputs = [id(a) for a in (*args, *kwargs.values(), *np.atleast_1d(kwargs.get("out", ())).tolist())]
    if isinstance(result, (np.ndarray, np.generic)) and id(result) not in inputs:
        result = np.asarray(result)
        owner = result if result.base is None else result.base
        fresh = not any(isinstance(a, np.ndarray) and np.may_share_memory(a, owner) for a in args)
        counts["allocations"] += fresh and kwargs.get("out") is None
        if recording is not None and fresh:
            recording.append(lambda: np.copyto(result, function(*args, **kwargs)))
    elif recording is not None:
        recording.append(lambda: function(*args, **kwargs))
    return device(result)


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        if function is np.ndim:
            return self.array.ndim
        raise TypeError(f"numpy.{function.__name__} of a device array; call the array module's")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        if out is not None:
            kwargs["out"] = out[0]
            run(getattr(ufunc, method), *inputs, **kwargs)
            return out[0]
        return run(getattr(ufunc, method), *inputs, **kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.array, name)
        if isinstance(value, np.ndarray):
            return DeviceArray(value)
        if callable(value):
            return functools.partial(run, getattr(np.ndarray, name), self)
        return value

    def __getitem__(self, index: Any) -> DeviceArray:
        return run(np.ndarray.__getitem__, self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        run(np.ndarray.__setitem__, self, index, value)

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[i] for i in range(len(self)))

    def get(self) -> np.ndarray:
        waits()
        return self.array.copy()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())


class Module(types.ModuleType):
    """A module of NumPy or SciPy for device arrays."""

    def __init__(self, name: str, behind: Any, **own: Any) -> None:
        super().__init__(name)
        self.__dict__.update(own, _behind=behind)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._behind, name)
        return value if isinstance(value, type) or not callable(value) else functools.partial(run, value)


def poisoned(shape: Any, dtype: Any = np.float64) -> DeviceArray:
    counts["allocations"] += 1
    out = np.empty(shape, dtype)
    out.view(np.uint8)[...] = 0xFF if out.ndim else 0
    return DeviceArray(out)


def asarray(value: Any, dtype: Any = None) -> DeviceArray:
    if isinstance(value, DeviceArray):
        return value if dtype is None or value.dtype == dtype else value.astype(dtype)
    if recording is not None:
        raise RuntimeError("a copy from pageable memory waits")
    counts["uploads"] += np.ndim(value) > 0
    return DeviceArray(np.array(value, dtype))


class Plan:
    """A cuFFT plan over the last two axes."""

    work_area = types.SimpleNamespace(mem=types.SimpleNamespace(size=1))

    def __init__(self, array: DeviceArray, *, shape: tuple[int, int], axes: Any, value_type: str) -> None:
        assert array.ndim == 3
        assert array.flags.c_contiguous
        assert axes == (1, 2)
        self.count, self.shape, self.kind = len(array), shape, value_type
        counts["plans"] += 1

    def fft(self, array: DeviceArray, out: DeviceArray, direction: int) -> None:
        assert array.size
        assert array.flags.c_contiguous
        assert out.flags.c_contiguous
        assert np.prod(array.shape[:-2]) == self.count
        counts["transforms"] += 1
        counts["bytes"] += array.nbytes + out.nbytes

        def transform() -> None:
            if self.kind == "R2C":
                assert direction == -1
                assert array.shape[-2:] == self.shape
                out.array[...] = scipy.fft.rfft2(array.array)
            else:
                assert direction == 1
                out.array[...] = scipy.fft.irfft2(array.array, s=self.shape, norm="forward")
                array.array[...] = np.nan

        transform()
        if recording is not None:
            recording.append(transform)


class Stream:
    ptr = 0

    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        waits()

    def begin_capture(self) -> None:
        global recording
        assert self.non_blocking
        recording = []

    def end_capture(self) -> Any:
        global recording
        calls, recording = recording, None

        def launch() -> None:
            for call in calls:
                call()

        return types.SimpleNamespace(launch=launch, calls=calls)


class Pool:
    malloc = None

    def total_bytes(self) -> int:
        return 1


class Device:
    id = 0
    attributes = {"MaxSharedMemoryPerBlockOptin": 227 << 10}  # noqa: RUF012
    mem_info = (1 << 36, 1 << 37)


def label(array: DeviceArray, structure: np.ndarray) -> tuple[DeviceArray, int]:
    waits()
    labels, count = scipy.ndimage.label(array.array, structure)
    return DeviceArray(labels), count


@contextmanager
def nothing(*_: Any) -> Iterator[None]:
    yield


def fake_cupy(cpu_kernel: Callable[[str], Any]) -> dict[str, types.ModuleType]:
    """The modules to stand in `sys.modules` for CuPy's; `cpu_kernel` gives the CPU build of a CUDA kernel."""

    def raw_module(code: str, options: tuple[str, ...]) -> Any:
        def get_function(name: str) -> Any:
            kernel = cpu_kernel(name)

            def launch(grid: Any, block: Any, args: tuple[Any, ...], shared_mem: int = 0) -> None:
                kernel.max_dynamic_shared_size_bytes = launch.max_dynamic_shared_size_bytes  # type: ignore[attr-defined]
                plain = host(args)
                counts["bytes"] += sum(a.nbytes for a in plain if isinstance(a, np.ndarray))
                kernel(grid, block, plain, shared_mem=shared_mem)
                if recording is not None:
                    recording.append(lambda: kernel(grid, block, plain, shared_mem=shared_mem))

            launch.max_dynamic_shared_size_bytes = 48 << 10  # type: ignore[attr-defined]
            return launch

        return types.SimpleNamespace(get_function=get_function)

    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
    cuda = types.SimpleNamespace(
        Device=Device, Stream=Stream, MemoryPool=Pool, using_allocator=nothing, runtime=runtime,
        get_current_stream=Stream,
    )  # fmt: skip
    cupy = Module(
        "cupy", np, ndarray=DeviceArray, empty=poisoned, asarray=asarray, cuda=cuda, RawModule=raw_module,
        empty_like=lambda a, dtype=None: poisoned(a.shape, dtype or a.dtype),
        memoize=lambda for_each_device: functools.cache,
    )  # fmt: skip
    cupy.fft = Module("cupy.fft", np.fft)
    ndimage, fft = Module("cupyx.scipy.ndimage", scipy.ndimage), Module("cupyx.scipy.fft", scipy.fft)
    ndimage.label = label
    fftpack = Module("cupyx.scipy.fftpack", None, get_fft_plan=Plan)
    cupyx_scipy = Module("cupyx.scipy", None, ndimage=ndimage, fft=fft, fftpack=fftpack)
    modules = (cupy, Module("cupyx", None, scipy=cupyx_scipy), cupyx_scipy, ndimage, fft, fftpack)
    return {module.__name__: module for module in modules}


@contextmanager
def installed(cpu_kernel: Callable[[str], Any]) -> Iterator[Any]:
    """CuPy is the fake one, and `gpudeblur` meets it for the first time."""
    package = importlib.import_module("gpudeblur")
    own = ("_cuda", "_device")
    before = dict(sys.modules)
    attributes = {name: package.__dict__.pop(name, None) for name in own}
    for name in own:
        sys.modules.pop(f"gpudeblur.{name}", None)
    modules = fake_cupy(cpu_kernel)
    sys.modules.update(modules)
    counts.clear()
    try:
        yield modules["cupy"]
    finally:
        for name in [*modules, *(f"gpudeblur.{name}" for name in own)]:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]
        for name, module in attributes.items():
            package.__dict__.pop(name, None)
            if module is not None:
                setattr(package, name, module)
