"""The device of the GPU executor: an NVIDIA GPU with three streams and pinned memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..blind.deblur import BlindResult
from ..numerics.arrays import Array, device_errors, free_bytes, require_cuda


@dataclass(eq=False)
class _Stack:
    array: Array  # on the device
    pinned: np.ndarray | None  # the source of the copy, kept until it is done
    arrived: Any  # event


class CudaDevice:
    """An NVIDIA GPU. Three streams let it upload, compute and download at the same time.

    Every array is referred to until the host has seen its last use finish: CuPy returns memory to the stream that
    allocated it, which does not wait for uses on other streams.
    """

    def __init__(self, device_id: int) -> None:
        from ..numerics.device import State

        self._cupy = cupy = require_cuda()
        self.device_id, self._gpu = device_id, cupy.cuda.Device(device_id)
        with self._gpu:
            streams = (cupy.cuda.Stream(non_blocking=True) for _ in range(3))
            self._upload_stream, self._compute_stream, self._download_stream = streams
        self._state = State()  # of the thread that computes, in this batch and in later ones
        self._computing = threading.Lock()
        self.inputs_ready: Any = None  # an event after all work that made the images, or None

    def prepare(self, image: Any) -> None:
        if not isinstance(image, np.ndarray):
            with device_errors():
                self._gpu.use()
                # It was made on the reader's stream, on one that this stream waits for, or before the batch began.
                self._cupy.cuda.get_current_stream().synchronize()
                if self.inputs_ready is not None:
                    self.inputs_ready.synchronize()
                    self.inputs_ready = None

    def free_bytes(self) -> int:
        with self._gpu:
            return free_bytes(self._cupy)

    def upload(self, images: list[Any]) -> _Stack:
        cupy = self._cupy
        with device_errors(), self._gpu, self._upload_stream as stream:
            if not isinstance(images[0], np.ndarray):
                return _Stack(cupy.stack(images), None, stream.record())
            dtype = images[0].dtype.newbyteorder("=")
            pinned = _empty_pinned((len(images), *images[0].shape), dtype)
            for i, image in enumerate(images):
                pinned[i] = image
            array = cupy.empty(pinned.shape, dtype)
            array.set(pinned, stream=stream)  # does not wait
            return _Stack(array, pinned, stream.record())

    def compute(self, stack: _Stack, deblur: Callable[[Any], BlindResult]) -> tuple[BlindResult, Any, _Stack]:
        from ..numerics.device import use

        with self._computing, device_errors(), self._gpu, self._compute_stream as stream:
            use(self._state)
            stream.wait_event(stack.arrived)
            result = deblur(stack.array)
            return result, stream.record(), stack

    def download(self, computed: tuple[BlindResult, Any, _Stack], image: Any) -> BlindResult:
        result, done, _ = computed
        on_host = isinstance(image, np.ndarray)
        # For the user, arrays on the device belong to the default stream: that is where they are used and freed.
        with device_errors(), self._gpu, self._download_stream if on_host else self._cupy.cuda.Stream.null as stream:
            stream.wait_event(done)
            stacks = [result.image, result.kernel]
            if on_host:
                stacks = [None if stack is None else self._get(stack, stream) for stack in stacks]
                stream.synchronize()
            # Copies: pinned memory is scarce, and one result must not keep those of its group in memory.
            images, kernels = (None if stack is None else [part.copy() for part in stack] for stack in stacks)
            if not on_host:
                stream.synchronize()
        if on_host and images is not None:
            images = [part.astype(image.dtype, copy=False) for part in images]  # in the byte order of the input
        return BlindResult(images, kernels, result.info)

    def _get(self, array: Any, stream: Any) -> np.ndarray:
        """`array` in pinned memory, once the stream has copied it."""
        return array.get(stream=stream, out=_empty_pinned(array.shape, array.dtype), blocking=False)

    def is_out_of_memory(self, error: Exception) -> bool:
        from ..numerics.device import is_out_of_memory

        return is_out_of_memory(error)

    def release(self) -> None:
        """Free the memory pools, and the plans and graphs of this device and of those that no batch uses."""
        from ..numerics.device import clear, use

        with suppress(RuntimeError), self._computing, self._gpu:  # a GPU that is lost has nothing to free
            use(self._state)
            clear()
            self._cupy.get_default_memory_pool().free_all_blocks()
            self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def close(self) -> None:
        """Keep the device for the next batch, unless a thread that did not end in time still computes on it."""
        from ..numerics.device import idle, idle_lock

        if self._computing.acquire(blocking=False):
            self._computing.release()
            with idle_lock:
                if len(_idle_devices) < MAX_IDLE_DEVICES:
                    _idle_devices.append(self)
                    idle.append(self._state)


# Devices of batches that have ended, with the plans and graphs they made; `numerics.device.idle` has their states.
_idle_devices: list[CudaDevice] = []
MAX_IDLE_DEVICES = 2


def acquire_cuda_device(device_id: int | None, inputs_ready: Any) -> CudaDevice:
    """The GPU of that number, or the current one; `inputs_ready`: an event after all work that made the images."""
    if device_id is None:
        device_id = int(require_cuda().cuda.Device().id)
    from ..numerics.device import idle, idle_lock

    with idle_lock:
        device = next((device for device in _idle_devices if device.device_id == device_id), None)
        if device is not None:
            _idle_devices.remove(device)
            idle.remove(device._state)
    device = device or CudaDevice(device_id)
    device.inputs_ready = inputs_ready
    return device


def _empty_pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Pinned memory of a power of two bytes: CuPy reuses a block only for a request of the same size."""
    import cupyx

    size = math.prod(shape) * np.dtype(dtype).itemsize
    return cupyx.empty_pinned((1 << max(0, size - 1).bit_length(),), np.uint8)[:size].view(dtype).reshape(shape)
