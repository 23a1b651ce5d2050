"""Pictures in groups on a device: the lane of `deblur_batch` for CUDA. One picture would leave a GPU idle.

Pictures of one shape and dtype are stacked. Three threads, a group in the hands of each: the first stacks and sends it,
the second computes, the third brings results back. What is CUDA about it is in `Cuda`; anything with its methods does,
and the tests bring one of NumPy arrays. One file, though a long one: the three threads are read side by side.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..blind.deblur import BlindResult
from ..images import checks
from ..numerics.arrays import Array, device_errors, free_bytes, require_cuda
from ..numerics.progress import Stopped
from .pipeline import BatchResult, Pipeline, Task, clear_tracebacks

# Groups in flight: on the way in, in work, on the way out, and one that fills.
AHEAD = 4
# Pixels in a group, at most, where nobody says how many: far more than a GPU computes at a time.
GROUP_PIXELS = 1 << 25
MIN_SIZE = 1 << 12  # however small a picture is
UNKNOWN_SIZE = GROUP_PIXELS >> 8  # what else may come
# Of the free memory; the rest is for what the allocator cannot use of its blocks.
MEMORY_FRACTION = 0.8
# Seconds for which an idle device waits for more pictures of a slow reader before it takes those that are there.
BATCH_TIMEOUT = 0.02


class Device(Protocol):
    """What the lane asks of a device. `upload`, `compute` and `download` may only start the work; each in a thread."""

    def prepare(self, picture: Any) -> None:
        """In the reader's thread: wait until the picture can be read."""

    def free_bytes(self) -> int: ...

    def upload(self, pictures: list[Any]) -> Any:
        """The stack of the pictures, on its way to the device."""

    def compute(self, stack: Any, deblur: Callable[[Any], BlindResult]) -> Any:
        """`deblur` of the stack, once it is there."""

    def download(self, computed: Any, picture: Any) -> BlindResult:
        """The result, in the memory that `picture` came from, complete; each picture's arrays are its own."""

    def is_out_of_memory(self, error: Exception) -> bool: ...

    def release(self) -> None:
        """In the thread that computes: give back all memory that is kept for later."""

    def close(self) -> None:
        """In any thread, when all is over."""


@dataclass(eq=False)
class _Group:
    jobs: list[Task]
    stack: Any = None  # on the device, or None where it did not fit yet


class GpuExecutor:
    """The lane: equal pictures together, as many as `batch_size` says or memory and `GROUP_PIXELS` allow.

    Without a kernel size, one by one: a stack's kernels would all be padded to the largest of them.
    """

    def __init__(
        self,
        flow: Pipeline,
        device: Device,
        deblur: Callable[..., BlindResult],
        bytes_of: Callable[[tuple[int, ...]], int],
        *,
        kernel_size: Any,
        channel_axis: int | None = None,
        batch_size: int | None = None,
        linger: float = BATCH_TIMEOUT,
    ) -> None:
        self._flow, self._device, self._deblur_stack, self._bytes_of = flow, device, deblur, bytes_of
        self._kernel_size, self._channel_axis = kernel_size, channel_axis
        self._batch_size, self._linger = batch_size, linger
        self.held = 0
        self.capacity = AHEAD * (batch_size or GROUP_PIXELS)
        # From a given size memory is not the matter, until it runs out.
        self._budget: float = math.inf if batch_size else MEMORY_FRACTION * device.free_bytes()
        self._warned = False
        self._queues: dict[Any, deque[Task]] = {}
        self._loaded: deque[_Group | None] = deque()
        self._computed: deque[tuple[list[Task], Any] | None] = deque()
        self._busy = 0  # groups between the first thread and the last
        self._started = False
        flow.at_end.callback(self._clear)

    # ---- the reader's side

    def cost(self, picture: Any) -> int:
        """Of a bound in pictures where there is a batch size, else of one in pixels."""
        size = getattr(picture, "size", None)
        return 1 if self._batch_size else max(MIN_SIZE, size) if isinstance(size, int) else UNKNOWN_SIZE

    def check(self, picture: Any) -> Exception | None:
        """What `deblur` would say to it: one bad picture must not spoil a group."""
        try:
            self._device.prepare(picture)
            checks.check_picture(picture, channel_axis=self._channel_axis)
            shape = list(picture.shape)
            if self._channel_axis is not None:
                del shape[self._channel_axis]
            if self._kernel_size is None:
                checks.check_minimum_size(tuple(shape))
            else:
                checks.check_kernel_size(self._kernel_size, tuple(shape))
        except Exception as why:  # noqa: BLE001 - whatever this picture raises is its result
            return why
        return None

    def add(self, job: Task) -> None:
        self._queues.setdefault(self._key(job), deque()).append(job)
        if not self._started:
            self._started = True
            for work, name in ((self._load, "upload"), (self._compute_all, "compute"), (self._unload, "download")):
                self._flow.start(work, name)

    def _key(self, job: Task) -> Any:
        """Jobs with one key are one stack; stacks that came as pictures stay by themselves."""
        picture, rank = job.picture, 2 if self._channel_axis is None else 3
        return (_on_host(picture), picture.shape, picture.dtype.str) if picture.ndim == rank else job.index

    # ---- which pictures go together

    def _most(self, shape: tuple[int, ...]) -> int:
        """How many pictures of this shape are computed together: 1 where each finds a kernel size of its own."""
        if self._kernel_size is None:
            return 1
        most = self._batch_size or GROUP_PIXELS // math.prod(shape)
        return max(1, int(min(most, self._budget // self._bytes_of(shape))))

    def _next_group(self) -> list[Task] | None:
        """A full group, or what there is where waiting brings no more; None at the end."""
        flow = self._flow
        with flow.changed:
            while not flow.stopping:
                key, patience = self._due()
                if key is not None:
                    queue = self._queues[key]
                    jobs = [queue.popleft() for _ in range(min(len(queue), self._most(queue[0].picture.shape)))]
                    if not queue:
                        del self._queues[key]
                    self._busy += 1
                    return jobs
                if flow.ended and not self._queues:
                    return None
                flow.changed.wait(patience)
        return None

    def _due(self) -> tuple[Any, float | None]:
        """(key of the group to take now, or None; seconds until that may change by itself)."""
        if not self._queues:
            return None, None
        for key, queue in self._queues.items():
            if len(queue) >= self._most(queue[0].picture.shape):
                return key, None
        oldest = min(self._queues, key=lambda key: self._queues[key][0].index)
        if self._flow.ended or self._flow.full:
            return oldest, None
        if self._busy:  # more may come while the device works
            return None, None
        patience = self._flow.last_read + self._linger - time.monotonic()
        return (oldest, None) if patience <= 0 else (None, patience)

    # ---- the three threads

    def _load(self) -> None:
        while (jobs := self._next_group()) is not None:
            group = _Group(jobs)
            try:
                group.stack = self._device.upload([job.picture for job in jobs])
            except Exception as why:  # noqa: BLE001 - the next thread tries once more, with the device to itself
                clear_tracebacks(why)
            self._flow.put(self._loaded, group)
            del group, jobs  # nothing is kept while waiting for the next
        self._flow.put(self._loaded, None)

    def _compute_all(self) -> None:
        while (group := self._flow.get(self._loaded)) is not None:
            self._compute(group)
            del group
        self._flow.put(self._computed, None)

    def _compute(self, group: _Group, *, again: bool = False) -> None:
        """Compute a group; by halves where it does not fit, one by one where a picture spoils it.

        A single picture that does not fit is tried again once all that was kept for others is given back.
        """
        jobs, device, flow = group.jobs, self._device, self._flow
        shape, stack = jobs[0].picture.shape, group.stack
        group.stack = None
        if len(jobs) > (most := self._most(shape)):  # shrunk since it was made
            del stack
            self._split(jobs, most)
            return
        try:
            if stack is None:
                stack = device.upload([job.picture for job in jobs])
            computed = device.compute(stack, self._deblur(jobs[0].picture))
        except Stopped:
            return
        except Exception as why:  # noqa: BLE001 - it is sorted out below whose it is
            error, full = why, device.is_out_of_memory(why)
        else:
            flow.put(self._computed, (jobs, computed))
            return
        del stack
        clear_tracebacks(error)  # the arrays of the run are still in them
        if full:
            device.release()
        if len(jobs) == 1 and full and not again:
            self._compute(_Group(jobs), again=True)
        elif len(jobs) == 1:
            flow.finish(BatchResult(jobs[0].index, None, None, {}, error))
            self._leave()
        elif full:
            half = len(jobs) // 2
            self._budget = self._bytes_of(shape) * half
            if not self._warned:
                self._warned = True
                size = " x ".join(map(str, shape))
                flow.warnings.append(
                    f"out of memory with {len(jobs)} pictures of {size} at a time, going on with {half}; "
                    f"batch_size={half} begins with that"
                )
            self._split(jobs, half)
        else:
            self._split(jobs, 1)

    def _split(self, jobs: list[Task], size: int) -> None:
        parts = [jobs[i : i + size] for i in range(0, len(jobs), size)]
        with self._flow.changed:
            self._busy += len(parts) - 1
        for part in parts:
            if not self._flow.stopping:
                self._compute(_Group(part))

    def _deblur(self, picture: Any) -> Callable[[Any], BlindResult]:
        """`deblur` of a stack of pictures like this one."""
        flow, axis = self._flow, self._channel_axis
        if axis is not None and axis >= 0:
            axis -= picture.ndim  # counted from the end, where a stack adds nothing
        return functools.partial(self._deblur_stack, channel_axis=axis, callback=lambda *_: flow.stopping)

    def _unload(self) -> None:
        while (item := self._flow.get(self._computed)) is not None:
            jobs, computed = item
            del item
            self._deliver(jobs, computed)
            del jobs, computed

    def _deliver(self, jobs: list[Task], computed: Any) -> None:
        flow, device = self._flow, self._device
        try:
            found = device.download(computed, jobs[0].picture)
        except Exception as why:  # noqa: BLE001 - a device that fails fails for these pictures
            for job in jobs:
                flow.finish(BatchResult(job.index, None, None, {}, why))
        else:
            for i, job in enumerate(jobs):
                image = None if found.image is None else found.image[i]
                flow.finish(BatchResult(job.index, image, found.kernel[i], split_info(found.info, i, len(jobs))))
        self._leave()

    def _leave(self) -> None:
        with self._flow.changed:
            self._busy -= 1
            self._flow.changed.notify_all()

    def _clear(self) -> None:
        self._queues.clear()
        self._loaded.clear()
        self._computed.clear()
        self._device.close()


def split_info(info: dict[str, Any], i: int, count: int) -> dict[str, Any]:
    """What `info` of a stack says of its picture `i`; times are its share."""

    def of_one(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        return value[i] if value.ndim > 1 else value[i].item()

    return {key: value / count if key.startswith("seconds") else of_one(value) for key, value in info.items()}


def _on_host(picture: Any) -> bool:
    return isinstance(picture, np.ndarray)


def _pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Pinned memory of a power of two bytes: CuPy keeps a block for requests of its very size, and never splits one."""
    import cupyx

    size = math.prod(shape) * np.dtype(dtype).itemsize
    return cupyx.empty_pinned((1 << max(0, size - 1).bit_length(),), np.uint8)[:size].view(dtype).reshape(shape)


@dataclass(eq=False)
class _Stack:
    array: Array  # on the device
    host: np.ndarray | None  # pinned; it must stay until the copy is done
    there: Any  # event


class Cuda:
    """An NVIDIA GPU: three streams, so that copies in, computing and copies out go on at the same time.

    Every array is referred to until the host has seen that its last use is over: CuPy gives memory back to the stream
    that asked for it, which knows nothing of uses on others.
    """

    def __init__(self, number: int) -> None:
        from ..numerics.device import State

        self._cupy = cupy = require_cuda()
        self._here = cupy.cuda.Device(number)
        with self._here:
            self._in, self._work, self._out = (cupy.cuda.Stream(non_blocking=True) for _ in range(3))
        self._state = State()  # of the thread that computes, and after that batch of the next one's
        self._computing = threading.Lock()
        self.number = number
        self.ready: Any = None  # an event after all that made the pictures, where one is known

    def prepare(self, picture: Any) -> None:
        if not _on_host(picture):
            with device_errors():
                self._here.use()
                # What made it ran on the reader's stream, on one that this stream waits for, or before the batch began.
                self._cupy.cuda.get_current_stream().synchronize()
                if self.ready is not None:
                    self.ready.synchronize()
                    self.ready = None

    def free_bytes(self) -> int:
        with self._here:
            return free_bytes(self._cupy)

    def upload(self, pictures: list[Any]) -> _Stack:
        cupy = self._cupy
        with device_errors(), self._here, self._in as stream:
            if not _on_host(pictures[0]):
                return _Stack(cupy.stack(pictures), None, stream.record())
            dtype = pictures[0].dtype.newbyteorder("=")
            host = _pinned((len(pictures), *pictures[0].shape), dtype)
            for i, picture in enumerate(pictures):
                host[i] = picture
            array = cupy.empty(host.shape, dtype)
            array.set(host, stream=stream)  # from pinned memory: does not wait
            return _Stack(array, host, stream.record())

    def compute(self, stack: _Stack, deblur: Callable[[Any], BlindResult]) -> tuple[BlindResult, Any, _Stack]:
        from ..numerics.device import use

        with self._computing, device_errors(), self._here, self._work as stream:
            use(self._state)
            stream.wait_event(stack.there)
            found = deblur(stack.array)
            return found, stream.record(), stack

    def download(self, computed: tuple[BlindResult, Any, _Stack], picture: Any) -> BlindResult:
        with device_errors():
            return self._download(computed, picture)

    def _download(self, computed: tuple[BlindResult, Any, _Stack], picture: Any) -> BlindResult:
        found, done, _ = computed
        arrays = (found.image, found.kernel)
        cupy = self._cupy
        if _on_host(picture):
            with self._here, self._out as stream:
                stream.wait_event(done)
                pinned = [None if array is None else self._fetch(array, stream) for array in arrays]
                stream.synchronize()
            # Copies: pinned memory is scarce, and one result must not keep those of its group.
            parts = [None if one is None else [one[i].copy() for i in range(len(one))] for one in pinned]
            image, kernel = parts
            if image is not None:
                image = [one.astype(picture.dtype, copy=False) for one in image]  # of the byte order that came
        else:
            # By the default stream, because the user will use them and drop them there.
            with self._here, cupy.cuda.Stream.null as stream:
                stream.wait_event(done)
                parts = [None if one is None else [one[i].copy() for i in range(len(one))] for one in arrays]
                stream.synchronize()
            image, kernel = parts
        return BlindResult(image, kernel, found.info)

    def _fetch(self, array: Any, stream: Any) -> np.ndarray:
        pinned = _pinned(array.shape, array.dtype)
        return array.get(stream=stream, out=pinned, blocking=False)

    def is_out_of_memory(self, error: Exception) -> bool:
        from ..numerics.device import is_out_of_memory

        return is_out_of_memory(error)

    def release(self) -> None:
        """Also what other batches have left."""
        from ..numerics.device import clear, use

        with suppress(RuntimeError), self._computing, self._here:  # a GPU that is lost has nothing to give
            use(self._state)
            clear()
            self._cupy.get_default_memory_pool().free_all_blocks()
            self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def close(self) -> None:
        """Left to the next batch, unless a thread that did not end in time still computes."""
        from ..numerics.device import idle, idle_lock

        if self._computing.acquire(blocking=False):
            self._computing.release()
            with idle_lock:
                if len(_idle) < IDLE:
                    _idle.append(self)
                    idle.append(self._state)


# Devices that batches have left, with the plans and graphs that they made; `_device.idle` has their states.
_idle: list[Cuda] = []
IDLE = 2


def cuda(number: int | None, ready: Any) -> Cuda:
    """The GPU of that number, or the current one; `ready`: an event after all that made the pictures, or None."""
    if number is None:
        number = int(require_cuda().cuda.Device().id)
    from ..numerics.device import idle, idle_lock

    with idle_lock:
        device = next((device for device in _idle if device.number == number), None)
        if device is not None:
            _idle.remove(device)
            idle.remove(device._state)
    device = device or Cuda(number)
    device.ready = ready
    return device
