"""The GPU executor: equal images are stacked into groups, because one image would leave a GPU idle.

Each group passes through three threads: the first stacks and uploads it, the second computes, the third downloads the
results. What depends on CUDA is in `cuda_device`; the executor accepts any object with the methods of `Device`, and the
tests bring one of NumPy arrays.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np

from ..blind.deblur import BlindResult
from ..blind.info import Info
from ..numerics.progress import Stopped
from .masks import join_masks, mask_kind
from .pipeline import BatchResult, Pipeline, Task, clear_tracebacks

# Groups in flight: one is filled, one uploaded, one computed and one downloaded.
GROUPS_IN_FLIGHT = 4
# Pixels in a group, at most, if no batch size is given: far more than a GPU computes at a time.
GROUP_PIXELS = 1 << 25
MIN_SIZE = 1 << 12  # that an image counts as
UNKNOWN_SIZE = GROUP_PIXELS >> 8  # that an object without a size counts as
# Of the free memory. The allocator cannot use all of its blocks.
MEMORY_FRACTION = 0.8
# Seconds that an idle device waits for more images of a slow reader before it computes those that are there.
BATCH_TIMEOUT = 0.02


class Device(Protocol):
    """What the executor needs from a device. `upload`, `compute` and `download` are each called in their own thread.

    The first two may return before the work is done.
    """

    def prepare(self, image: Any) -> None:
        """Wait until the image can be read. Called in the reader's thread."""

    def free_bytes(self) -> int: ...

    def upload(self, images: list[Any]) -> Any:
        """The stack of the images, on its way to the device."""

    def compute(self, stack: Any, deblur: Callable[[Any], BlindResult]) -> Any:
        """`deblur` of the stack, once it has arrived."""

    def download(self, computed: Any, image: Any) -> BlindResult:
        """The complete result, in the memory that `image` is in. The arrays of its images do not share memory."""

    def is_out_of_memory(self, error: Exception) -> bool: ...

    def release(self) -> None:
        """Free all memory that is kept for later. Called in the thread that computes."""

    def close(self) -> None:
        """Called once, in any thread, when the batch has ended."""


@dataclass(eq=False)
class _Group:
    tasks: list[Task]
    stack: Any = None  # on the device, or None if the upload failed


class GpuExecutor:
    """Computes equal images together: `batch_size` of them, or as many as memory and `GROUP_PIXELS` allow.

    Parameters
    ----------
    deblur : function of (stack, channel_axis=, callback=), and white= and mask= for pictures that have them.
    bytes_per_image : memory that an image of a shape takes.
    check : raises what `deblur` would raise for an image and its mask.
    one_by_one : whether no images are stacked.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        device: Device,
        deblur: Callable[..., BlindResult],
        bytes_per_image: Callable[[tuple[int, ...]], int],
        *,
        check: Callable[[Any, Any], None],
        one_by_one: bool,
        channel_axis: int | None = None,
        batch_size: int | None = None,
        timeout: float = BATCH_TIMEOUT,
    ) -> None:
        self._pipeline, self._device, self._deblur, self._bytes_per_image = pipeline, device, deblur, bytes_per_image
        self._check, self._one_by_one, self._channel_axis = check, one_by_one, channel_axis
        self._rank = 2 if channel_axis is None else 3  # of a single image
        self._batch_size, self._timeout = batch_size, timeout
        self.limit, self.in_flight = GROUPS_IN_FLIGHT * (batch_size or GROUP_PIXELS), 0
        # Bytes. A batch size that the user gives is tried whatever the model says of memory.
        self._budget: float = math.inf if batch_size else MEMORY_FRACTION * device.free_bytes()
        self._warned = False
        self._queues: dict[Any, deque[Task]] = {}
        self._uploaded: deque[_Group | None] = deque()
        self._computed: deque[tuple[list[Task], Any] | None] = deque()
        self._active_groups = 0  # in the three threads
        self._started = False
        pipeline.at_end.callback(self._clear)

    # ---- the reader's side

    def size(self, image: Any) -> int:
        """In images if there is a batch size, else in pixels. A stack that came as one image is a group."""
        if self._batch_size:
            return 1 if getattr(image, "ndim", self._rank) == self._rank else self._batch_size
        size = getattr(image, "size", None)
        return max(MIN_SIZE, size) if isinstance(size, int) else UNKNOWN_SIZE

    def check(self, image: Any, mask: Any) -> Exception | None:
        """The error that `deblur` would raise for it: one bad image must not fail its whole group."""
        try:
            self._device.prepare(image)
            if mask_kind(mask) == "array":
                self._device.prepare(mask)
            self._check(image, mask)
        except Exception as error:  # noqa: BLE001 - whatever this image raises is its result
            return error
        return None

    def add(self, task: Task) -> None:
        """Queue a task with those that are like it. A stack that came as one image stays alone."""
        image = task.image
        like = (isinstance(image, np.ndarray), image.shape, image.dtype.str, task.white, mask_kind(task.mask))
        key = like if image.ndim == self._rank else task.index
        self._queues.setdefault(key, deque()).append(task)
        if not self._started:
            self._started = True
            threads = {
                "upload": self._upload_groups,
                "compute": self._compute_groups,
                "download": self._download_groups,
            }
            for name, target in threads.items():
                self._pipeline.start(target, name)

    # ---- which images are computed together

    def _max_group(self, shape: tuple[int, ...]) -> int:
        """Images of this shape that are computed together, at most."""
        if self._one_by_one or len(shape) != self._rank:
            return 1
        count = self._batch_size or GROUP_PIXELS // math.prod(shape)
        return max(1, int(min(count, self._budget // self._bytes_per_image(shape))))

    def _next_group(self) -> list[Task] | None:
        """A full group, or a smaller one if waiting brings no more; None at the end."""
        pipeline = self._pipeline
        with pipeline.changed:
            while not pipeline.stopping:
                key, seconds = self._ready_queue()
                if key is not None:
                    queue = self._queues[key]
                    count = min(len(queue), self._max_group(queue[0].image.shape))
                    tasks = [queue.popleft() for _ in range(count)]
                    if not queue:
                        del self._queues[key]
                    self._active_groups += 1
                    return tasks
                if pipeline.ended and not self._queues:
                    return None
                pipeline.changed.wait(seconds)
        return None

    def _ready_queue(self) -> tuple[Any, float | None]:
        """(key of the queue to take a group from, or None; seconds to wait for one, or None until notified)."""
        if not self._queues:
            return None, None
        for key, queue in self._queues.items():
            if len(queue) >= self._max_group(queue[0].image.shape):
                return key, None
        oldest = min(self._queues, key=lambda key: self._queues[key][0].index)
        if self._pipeline.ended or self._pipeline.full:
            return oldest, None
        if self._active_groups:  # more images may come while the device works
            return None, None
        seconds = self._pipeline.last_read + self._timeout - time.monotonic()
        return (oldest, None) if seconds <= 0 else (None, seconds)

    # ---- the three threads

    def _upload_groups(self) -> None:
        while (tasks := self._next_group()) is not None:
            group = _Group(tasks)
            try:
                group.stack = self._device.upload([task.image for task in tasks])
            except Exception as error:  # noqa: BLE001 - the next thread tries again, when nothing else is computed
                clear_tracebacks(error)
            self._pipeline.put(self._uploaded, group)
            del group, tasks  # no array is kept while waiting for the next group
        self._pipeline.put(self._uploaded, None)

    def _compute_groups(self) -> None:
        while (group := self._pipeline.get(self._uploaded)) is not None:
            self._compute(group)
            del group
        self._pipeline.put(self._computed, None)

    def _compute(self, group: _Group, *, retry: bool = False) -> None:
        """Compute a group; in halves if it does not fit into memory, one by one if an image raises an error.

        A single image that does not fit is tried once more after the memory kept for others is released.
        """
        tasks, device, pipeline = group.tasks, self._device, self._pipeline
        shape, stack = tasks[0].image.shape, group.stack
        group.stack = None
        if len(tasks) > (count := self._max_group(shape)):  # the budget shrank after the group was formed
            del stack
            self._split(tasks, count)
            return
        try:
            if stack is None:
                stack = device.upload([task.image for task in tasks])
            computed = device.compute(stack, self._deblur_stack(tasks))
        except Stopped:
            return
        except Exception as caught:  # noqa: BLE001 - below it is assigned to the image that raised it
            error, out_of_memory = caught, device.is_out_of_memory(caught)
        else:
            pipeline.put(self._computed, (tasks, computed))
            return
        del stack
        clear_tracebacks(error)  # their frames still hold the arrays of the run
        if out_of_memory:
            device.release()
        if len(tasks) == 1 and out_of_memory and not retry:
            self._compute(_Group(tasks), retry=True)
        elif len(tasks) == 1:
            pipeline.finish(BatchResult(tasks[0].index, None, None, {}, error))
            self._group_done()
        elif out_of_memory:
            half = len(tasks) // 2
            self._budget = self._bytes_per_image(shape) * half
            if not self._warned:
                self._warned = True
                sides = " x ".join(map(str, shape))
                pipeline.warnings.append(
                    f"out of memory with {len(tasks)} pictures of {sides} at a time, going on with {half}; "
                    f"batch_size={half} begins with that"
                )
            self._split(tasks, half)
        else:
            self._split(tasks, 1)

    def _split(self, tasks: list[Task], count: int) -> None:
        """Compute the tasks in groups of `count`."""
        parts = [tasks[i : i + count] for i in range(0, len(tasks), count)]
        with self._pipeline.changed:
            self._active_groups += len(parts) - 1
        for part in parts:
            if not self._pipeline.stopping:
                self._compute(_Group(part))

    def _deblur_stack(self, tasks: list[Task]) -> Callable[[Any], BlindResult]:
        """`deblur` for the stack of the images of these tasks."""
        pipeline, axis, white = self._pipeline, self._channel_axis, tasks[0].white
        if axis is not None and axis >= 0:
            axis -= tasks[0].image.ndim  # counted from the end, which a stack leaves in place
        options = {"white": white, "mask": join_masks([task.mask for task in tasks])}
        options = {name: value for name, value in options.items() if value is not None}
        deblur = functools.partial(self._deblur, channel_axis=axis, callback=lambda *_: pipeline.stopping, **options)
        return deblur if tasks[0].image.ndim == self._rank else functools.partial(deblur_item, deblur=deblur)

    def _download_groups(self) -> None:
        while (item := self._pipeline.get(self._computed)) is not None:
            tasks, computed = item
            del item
            self._download(tasks, computed)
            del tasks, computed

    def _download(self, tasks: list[Task], computed: Any) -> None:
        pipeline, count = self._pipeline, len(tasks)
        try:
            stack = self._device.download(computed, tasks[0].image)
        except Exception as error:  # noqa: BLE001 - a failure of the device is the result of these images
            for task in tasks:
                pipeline.finish(BatchResult(task.index, None, None, {}, error))
        else:
            for i, task in enumerate(tasks):
                image, kernel = (None if array is None else array[i] for array in (stack.image, stack.kernel))
                pipeline.finish(BatchResult(task.index, image, kernel, split_info(stack.info, i, count)))
        self._group_done()

    def _group_done(self) -> None:
        with self._pipeline.changed:
            self._active_groups -= 1
            self._pipeline.changed.notify_all()

    def _clear(self) -> None:
        self._queues.clear()
        self._uploaded.clear()
        self._computed.clear()
        self._device.close()


def deblur_item(group: Any, deblur: Callable[[Any], BlindResult]) -> BlindResult:
    """`deblur` of the only item of a group, a stack or a burst: with the group's axis, it may have too many axes."""
    result = deblur(group[0])
    image, kernel = (None if array is None else array[None] for array in (result.image, result.kernel))
    info = {key: value[None] if isinstance(value, np.ndarray) else value for key, value in result.info.items()}
    return replace(result, image=image, kernel=kernel, info=cast(Info, info))


def split_info(info: Info, i: int, count: int) -> Info:
    """The `info` of image `i` of a stack of `count`; times are divided evenly."""

    def select(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        return value[i] if value.ndim > 1 else value[i].item()

    values: dict[str, Any] = dict(info)
    split = {key: value / count if key.startswith("seconds") else select(value) for key, value in values.items()}
    return cast(Info, split)
