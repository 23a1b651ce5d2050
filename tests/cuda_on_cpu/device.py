"""A CuPy that computes on the CPU: NumPy arrays behind CuPy's manners, CUDA kernels through the shim.

For tests of the device path as a whole. It fails where a GPU would compute something wrong or wait, or where CuPy would
raise: see `streams` for order and captures, `memory` for pools, `arrays` for operands and dtypes, `transforms` for
cuFFT. It counts what a GPU would have to do (`counts["bytes"]`: each array of a launch or a transform once) and what
the host would have to wait for.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage

from gpudeblur.batch import cuda_device

from . import arrays, memory, streams, transforms
from .arrays import DeviceArray, host, run
from .streams import activity, check_device, counts, current_stream, launched, lock, operation

__all__ = ["Device", "DeviceArray", "activity", "counts", "fake_cupy", "installed", "lost", "memory", "waits"]

# What CUDA says of a device that is gone, like "unspecified launch failure"; all that follows raises it.
lost: str | None = None

# The modules of gpudeblur that hold CuPy.
OWN = ("cuda", "device", "constants", "cuda_graphs")


def waits() -> None:
    """The host waits for the device."""
    with lock:
        streams.wait_for_device()


class Device:
    """The only one, number 0."""

    id = 0
    attributes = {  # noqa: RUF012
        "MaxSharedMemoryPerBlockOptin": 227 << 10, "ComputeCapabilityMajor": 9, "ComputeCapabilityMinor": 0,
        "MultiProcessorCount": 132,
    }  # fmt: skip
    compute_capability = "90"

    def __init__(self, device: int | None = None) -> None:
        check_device()
        if device not in (None, 0):
            raise streams.CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    def use(self) -> None:
        pass

    @property
    def mem_info(self) -> tuple[int, int]:
        return memory.memory_info()

    def synchronize(self) -> None:
        waits()


class Module(types.ModuleType):
    """A module of NumPy or SciPy for device arrays."""

    def __init__(self, name: str, behind: Any, **own: Any) -> None:
        super().__init__(name)
        self.__dict__.update(own, _behind=behind)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._behind, name)
        if callable(value) and not isinstance(value, type):
            if name in transforms.TRANSFORMS and self._behind in (np.fft, scipy.fft):
                value = transforms.cached(value)
            elif name != "next_fast_len":
                value = functools.partial(run, value)
            self.__dict__[name] = value
        return value


class Generator:
    """A random generator, whose arrays are the device's."""

    def __init__(self, seed: Any = None) -> None:
        self._generator = np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Any:
        return functools.partial(run, getattr(self._generator, name))


def label(input: DeviceArray, structure: np.ndarray | None = None) -> tuple[DeviceArray, int]:
    with lock:
        streams.wait(current_stream())
        labels = run(lambda values: scipy.ndimage.label(values, structure)[0], input)
        return labels, int(labels.array.max(initial=0))


def written(code: str, name: str) -> list[bool]:
    """Of each parameter of a CUDA kernel, whether it is an address that may be written to."""
    parameters = re.search(rf"__global__[^{{;]*?\b{name}\s*\(([^)]*)\)\s*\{{", code)
    assert parameters is not None, name
    return ["*" in one and not one.strip().startswith("const ") for one in parameters[1].split(",")]


def raw_module(cpu_kernel: Callable[[str], Any]) -> Callable[..., Any]:
    """`cupy.RawModule`; `cpu_kernel` gives the CPU build of a CUDA kernel."""

    def module(code: str, options: tuple[str, ...] = (), **_: Any) -> Any:
        def get_function(name: str) -> Any:
            kernel, writes = cpu_kernel(name), written(code, name)

            def launch(grid: Any, block: Any, args: tuple[Any, ...], shared_mem: int = 0) -> None:
                with lock:
                    activity["calls"] += 1
                    kernel.max_dynamic_shared_size_bytes = launch.max_dynamic_shared_size_bytes  # type: ignore[attr-defined]
                    operands: list[DeviceArray] = []
                    plain = host(args, operands)
                    blocks = [
                        (a.memory.block, w) for a, w in zip(args, writes, strict=True) if isinstance(a, DeviceArray)
                    ]
                    stream = current_stream()
                    operation(stream, [b for b, _ in blocks], [b for b, w in blocks if w])
                    counts["bytes"] += sum(array.nbytes for array in operands)
                    again = functools.partial(kernel, grid, block, plain, shared_mem=shared_mem)
                    again()
                    launched(stream, again)

            launch.max_dynamic_shared_size_bytes = 48 << 10  # type: ignore[attr-defined]
            return launch

        return types.SimpleNamespace(get_function=get_function)

    return module


def device_properties(number: int) -> dict[str, Any]:
    return {"name": b"a GPU of NumPy", "totalGlobalMem": memory.card.total, "major": 9, "minor": 0}


def fake_cupy(cpu_kernel: Callable[[str], Any]) -> dict[str, types.ModuleType]:
    """The modules to stand in `sys.modules` for CuPy's."""
    runtime = Module(
        "cupy.cuda.runtime", None, CUDARuntimeError=streams.CUDARuntimeError, getDeviceCount=lambda: 1,
        getDeviceProperties=device_properties, memGetInfo=memory.memory_info,
    )  # fmt: skip
    driver = Module("cupy.cuda.driver", None, CUDADriverError=streams.CUDADriverError)
    cufft = Module("cupy.cuda.cufft", None, CuFFTError=transforms.CuFFTError, getVersion=lambda: 12000,
                   PlanNd=transforms.PlanNd, Plan1d=transforms.Plan1d, **transforms.CODES)  # fmt: skip
    memory_module = Module("cupy.cuda.memory", None, OutOfMemoryError=memory.OutOfMemoryError,
                           MemoryPool=memory.MemoryPool)  # fmt: skip
    cuda = Module(
        "cupy.cuda", None, Device=Device, Stream=streams.Stream, Event=streams.Event, Graph=streams.Graph,
        get_current_stream=current_stream, get_elapsed_time=streams.get_elapsed_time, MemoryPool=memory.MemoryPool,
        Memory=memory.Memory, MemoryPointer=memory.MemoryPointer, using_allocator=memory.using_allocator,
        get_allocator=memory.get_allocator, runtime=runtime, driver=driver, cufft=cufft, memory=memory_module,
    )  # fmt: skip
    config = Module("cupy.fft.config", None, get_plan_cache=transforms.get_plan_cache)
    cupy_fft = Module("cupy.fft", np.fft, config=config)
    random = Module("cupy.random", None, Generator=Generator, default_rng=Generator)
    cupy = Module(
        "cupy", np, ndarray=DeviceArray, empty=arrays.poisoned, empty_like=arrays.poisoned_like, array=arrays.array,
        asarray=arrays.asarray, ascontiguousarray=arrays.ascontiguousarray, asnumpy=arrays.asnumpy, cuda=cuda,
        fft=cupy_fft, random=random, RawModule=raw_module(cpu_kernel), memoize=lambda for_each_device: functools.cache,
        get_default_memory_pool=memory.default_pool, get_default_pinned_memory_pool=lambda: memory.pinned_pool,
    )  # fmt: skip
    ndimage, fft = Module("cupyx.scipy.ndimage", scipy.ndimage), Module("cupyx.scipy.fft", scipy.fft)
    ndimage.__dict__["label"] = label
    cupyx_scipy = Module("cupyx.scipy", None, ndimage=ndimage, fft=fft)
    cupyx = Module("cupyx", None, scipy=cupyx_scipy, empty_pinned=memory.empty_pinned)
    mine = (cupy, cuda, runtime, driver, cufft, memory_module, cupy_fft, config, random)
    return {module.__name__: module for module in (*mine, cupyx, cupyx_scipy, ndimage, fft)}


@contextmanager
def installed(cpu_kernel: Callable[[str], Any]) -> Iterator[Any]:
    """CuPy is the fake one on a device that is all free, and `gpudeblur` meets it for the first time."""
    global lost
    package = importlib.import_module("gpudeblur.numerics")
    before = dict(sys.modules)
    attributes = {name: package.__dict__.pop(name, None) for name in OWN}
    for name in OWN:
        sys.modules.pop(f"gpudeblur.numerics.{name}", None)
    modules = fake_cupy(cpu_kernel)
    sys.modules.update(modules)
    lost = None
    memory.reset()
    transforms.reset()
    streams.local.__init__()  # type: ignore[misc]
    counts.clear()
    try:
        yield modules["cupy"]
    finally:
        lost = None
        cuda_device._idle_devices.clear()
        for name in [*modules, *(f"gpudeblur.numerics.{name}" for name in OWN)]:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]
        for name, module in attributes.items():
            package.__dict__.pop(name, None)
            if module is not None:
                setattr(package, name, module)
