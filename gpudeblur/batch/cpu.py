"""The CPU executor: threads that deblur, deconvolve, or restore by a network, small stacks of images, or bursts."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

import numpy as np

from ..blind.deblur import BlindResult, deblur
from ..blind.info import Info
from ..blind.restore import RestoreResult, restore_silently
from ..nonblind.deconvolve import deconvolve
from ..numerics.progress import Stopped
from .gpu import BATCH_TIMEOUT, split_info
from .masks import join_masks, mask_kind, mask_like
from .pipeline import BatchResult, NoThreadError, Pipeline, Task

# Pixels and images in a stack, at most. The images of a stack share NumPy's overhead per call and the waits for the
# interpreter's lock; a larger stack would not fit a core's cache.
STACK_PIXELS, STACK_IMAGES = 1 << 19, 16
NETWORK_STACK = 8  # images, for a network
# Stacks in flight for each worker: one that is computed, and one that waits.
STACKS_PER_WORKER = 2


class CpuExecutor:
    """`workers` threads, each with a stack of equal images at a time.

    `settings` are the arguments of `deblur`, with a "kernel" those of `deconvolve`, or with a "network" those of
    `restore`, for which one thread is enough: PyTorch has its own. So it is on a GPU.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: dict[str, Any],
        device: str | None,
        workers: int | None,
        batch_size: int | None,
    ) -> None:
        self._pipeline, self._settings, self._device = pipeline, settings, device
        self._workers = workers or (1 if "network" in settings or device == "cuda" else usable_cpus())
        self._batch_size = batch_size
        self.limit, self.in_flight = self._limit(), 0
        self._tasks: deque[Task] = deque()
        self._idle = self._started = 0
        pipeline.at_end.callback(self._tasks.clear)

    def _limit(self) -> int:
        return STACKS_PER_WORKER * (self._batch_size or STACK_IMAGES) * self._workers

    def check(self, image: Any, mask: Any) -> Exception | None:
        return None  # `deblur` checks them

    def size(self, image: Any) -> int:
        """In small images: a large image counts as a whole stack."""
        return (self._batch_size or STACK_IMAGES) // self._max_stack(image)

    def add(self, task: Task) -> None:
        """Queue a task. Another worker starts if all are busy, so a few images start a few threads only."""
        self._tasks.append(task)
        if len(self._tasks) > self._idle and self._started < self._workers:
            try:
                self._pipeline.start(self._work, f"worker-{self._started + 1}")
            except NoThreadError:
                if not self._started:
                    raise
                self._pipeline.warnings.append(
                    f"the system starts no more threads, going on with {self._started} of {self._workers} workers; "
                    f"workers={self._started} begins with that"
                )
                self._workers = self._started
                self.limit = self._limit()
            else:
                self._started += 1

    def _work(self) -> None:
        pipeline = self._pipeline
        while True:
            with pipeline.changed:
                self._idle += 1
            first = pipeline.get(self._tasks)
            if first is None:
                return
            with pipeline.changed:
                self._idle -= 1
                if self._batch_size:
                    self._wait_for_stack(self._max_stack(first.image))
                tasks = self._take_stack(first)
            results = self._deblur(tasks)
            for result in results:
                pipeline.finish(result)
            del first, tasks, results  # no array is kept while waiting for the next task

    def _wait_for_stack(self, count: int) -> None:
        """Wait for as many tasks, the first one is taken, while more are read: as the GPU's executor does."""
        pipeline = self._pipeline
        while len(self._tasks) + 1 < count and not (pipeline.ended or pipeline.full or pipeline.stopping):
            seconds = pipeline.last_read + BATCH_TIMEOUT - time.monotonic()
            if seconds <= 0:
                return
            pipeline.changed.wait(seconds)

    def _max_stack(self, image: Any) -> int:
        """Images like this one that are computed together, at most: 1 if each has a kernel size by itself."""
        is_network = "network" in self._settings
        alone = self._settings.get("kernel_size") is None or self._settings["shared_kernel"]
        if not isinstance(image, np.ndarray) or (not is_network and alone):
            return 1
        count = NETWORK_STACK if is_network else STACK_IMAGES
        return self._batch_size or max(1, min(count, STACK_PIXELS // max(1, image.size)))

    def _take_stack(self, first: Task) -> list[Task]:
        """The first task and the next ones, while they are like it and within one worker's fair share."""
        queue, stack = self._tasks, [first]
        count = min(self._max_stack(first.image), (len(queue) + 1) // self._workers)
        axis = self._settings["channel_axis"]
        like = first.white, mask_kind(first.mask)
        while (
            len(stack) < count
            and (queue[0].white, mask_kind(queue[0].mask)) == like
            and stackable(queue[0].image, first.image, axis)
        ):
            stack.append(queue.popleft())
        return stack

    def _deblur(self, tasks: list[Task]) -> list[BatchResult]:
        """The results of these images; one by one if the stack fails, to find the image that raises the error."""
        index, image, count = tasks[0].index, tasks[0].image, len(tasks)
        try:
            if count == 1:
                single = self._call(tasks, image, tasks[0].mask)
                return [BatchResult(index, single.image, single.kernel, single.info)]
            mask = join_masks([task.mask for task in tasks])
            stack = self._call(tasks, np.stack([task.image for task in tasks]), mask)
        except Stopped:
            return []
        except Exception as error:  # noqa: BLE001 - whatever this image raises is its result
            if count == 1:
                return [BatchResult(index, None, None, {}, error)]
            return [result for task in tasks for result in self._deblur([task])]
        results = []
        for i, task in enumerate(tasks):  # copies: one result must not keep the others in memory
            arrays = (stack.image, stack.kernel)
            result_image, kernel = (None if array is None else array[i].copy() for array in arrays)
            results.append(BatchResult(task.index, result_image, kernel, split_info(stack.info, i, count)))
        return results

    def _call(self, tasks: list[Task], image: Any, mask: Any) -> BlindResult | RestoreResult:
        """The result of the tasks' image, or of the stack of their images."""
        settings, axis, white, count = self._settings, self._settings["channel_axis"], tasks[0].white, len(tasks)
        if white is not None:
            settings = settings | {"white": white}
        if count > 1 and axis is not None and axis >= 0:
            settings = settings | {"channel_axis": axis - image.ndim + 1}  # from the end, which a stack leaves in place
        if mask is not None:
            settings = settings | {"mask": mask}

        def report(_: str, fraction: float) -> bool:
            return self._pipeline.advance(tasks[0].index, count * fraction)

        function: Any = deblur_masked
        if "network" in settings:
            function = restore_masked
        elif "kernel" in settings:
            function = deconvolve_masked
        return function(image, device=self._device, callback=report, **settings)


def deblur_masked(image: Any, **arguments: Any) -> BlindResult:
    """`deblur` with a mask in any memory; with a shared kernel, of a burst."""
    if arguments["shared_kernel"]:
        check_burst(image, arguments["channel_axis"])
    if "mask" in arguments:
        arguments["mask"] = mask_like(arguments["mask"], image)
    return deblur(image, **arguments)


def check_burst(burst: Any, channel_axis: int | None) -> None:
    """Raise unless `burst` is one array with the axes of a stack of pictures; `deblur` checks the rest."""
    axes, pixels = ("(N, H, W)", "(H, W)") if channel_axis is None else ("(N, H, W, C)", "(H, W, C)")
    rule = f"pictures must be bursts {axes}, each one array, for shared_kernel=True"
    if isinstance(burst, list | tuple):
        shapes = sorted({getattr(picture, "shape", ()) for picture in burst})
        way_out = "crop its pictures to one shape" if len(shapes) > 1 else "join its pictures by numpy.stack"
        raise TypeError(f"{rule}, got a {type(burst).__name__} of shapes {', '.join(map(str, shapes))}; {way_out}")
    rank = getattr(burst, "ndim", None)
    if rank is not None and rank != (3 if channel_axis is None else 4):
        way_out = f"a single picture {pixels} is picture[None], or leave shared_kernel out"
        raise ValueError(f"{rule}, got shape {tuple(burst.shape)}; {way_out}")


def deconvolve_masked(image: Any, kernel: Any, gamma: float, white: Any, **arguments: Any) -> BlindResult:
    """`deconvolve` with a mask in any memory, as the result of `deblur`."""
    start = time.perf_counter()
    if "mask" in arguments:
        arguments["mask"] = mask_like(arguments["mask"], image)
    sharp = deconvolve(image, kernel, gamma=gamma, white=white, **arguments)
    info: Info = {"gamma": gamma, "seconds": time.perf_counter() - start}
    if isinstance(white, int | float):
        info["white"] = float(white)
    return BlindResult(sharp, None, info, channel_axis=arguments["channel_axis"])


def restore_masked(image: Any, **arguments: Any) -> RestoreResult:
    """`restore_silently` with a mask in any memory."""
    if "mask" in arguments:
        arguments["mask"] = mask_like(arguments["mask"], image)
    return restore_silently(image, **arguments)


def stackable(image: Any, other: Any, channel_axis: int | None) -> bool:
    """Whether `image` is a single image of the shape and dtype of `other`."""
    rank = 2 if channel_axis is None else 3
    return (
        isinstance(image, np.ndarray)
        and not isinstance(image, np.ma.MaskedArray)
        and image.ndim == rank
        and (image.shape, image.dtype.str) == (other.shape, other.dtype.str)
    )


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
