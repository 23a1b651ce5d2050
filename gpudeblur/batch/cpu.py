"""The CPU executor: threads that take a few images each."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import numpy as np

from ..blind.deblur import BlindResult, deblur
from ..numerics.progress import Stopped
from .gpu import split_info
from .pipeline import BatchResult, Pipeline, Task

# Pixels that a worker computes together, of equal pictures, and how many pictures at most. They share NumPy's overhead
# and the turns at the interpreter's lock, for which threads wait; more of them would not fit a core's cache.
STACK_PIXELS, STACK = 1 << 19, 16
# Stacks in flight for each worker: one in work, and one read or waiting to be taken.
AHEAD = 2


class CpuExecutor:
    """The lane on the CPU: `workers` threads, each with a few equal pictures of its own."""

    def __init__(
        self,
        flow: Pipeline,
        settings: dict[str, Any],
        device: str | None,
        workers: int | None,
        batch_size: int | None,
    ) -> None:
        self._flow, self._settings, self._device = flow, settings, device
        self._workers, self._batch_size = workers or usable_cpus(), batch_size
        self.capacity, self.held = AHEAD * (batch_size or STACK) * self._workers, 0
        self._jobs: deque[Task] = deque()
        self._idle = self._started = 0
        flow.at_end.callback(self._jobs.clear)

    def check(self, picture: Any) -> Exception | None:
        return None  # its own call will say

    def cost(self, picture: Any) -> int:
        """In shares of a stack: a large picture is one by itself."""
        return (self._batch_size or STACK) // self._most(picture)

    def add(self, job: Task) -> None:
        """Queue a picture; another worker starts if all are busy, so that few pictures have few threads."""
        self._jobs.append(job)
        if len(self._jobs) > self._idle and self._started < self._workers:
            self._started += 1
            self._flow.start(self._work, f"worker-{self._started}")

    def _work(self) -> None:
        flow = self._flow
        while True:
            with flow.changed:
                self._idle += 1
            first = flow.get(self._jobs)
            if first is None:
                return
            with flow.changed:
                self._idle -= 1
                jobs = [first, *self._companions(first.picture)]
            results = self._deblur(jobs)
            for result in results:
                flow.finish(result)
            del first, jobs, results  # nothing is kept while waiting for the next

    def _most(self, picture: Any) -> int:
        """How many pictures like this one a worker computes together: 1 where each finds a kernel size of its own."""
        if not isinstance(picture, np.ndarray) or self._settings["kernel_size"] is None:
            return 1
        return self._batch_size or max(1, min(STACK, STACK_PIXELS // max(1, picture.size)))

    def _companions(self, picture: Any) -> list[Task]:
        """The next jobs, as far as they are like this one and their fair share for one worker."""
        jobs = self._jobs
        most = min(self._most(picture) - 1, (len(jobs) + 1) // self._workers - 1)
        found: list[Task] = []
        while len(found) < most and stackable(jobs[0].picture, picture, self._settings["channel_axis"]):
            found.append(jobs.popleft())
        return found

    def _deblur(self, jobs: list[Task]) -> list[BatchResult]:
        """The results of these pictures; one by one where a stack of them fails, to find whose error it is."""
        first, count = jobs[0], len(jobs)
        try:
            if count == 1:
                found = self._call(first.picture)
                return [BatchResult(first.index, found.image, found.kernel, found.info)]
            found = self._call(np.stack([job.picture for job in jobs]), first.picture.ndim)
        except Stopped:
            return []
        except Exception as why:  # noqa: BLE001 - whatever this picture raises is its result
            if count == 1:
                return [BatchResult(first.index, None, None, {}, why)]
            return [result for job in jobs for result in self._deblur([job])]
        results = []
        for i, job in enumerate(jobs):  # copies: one result must not keep the others
            image = None if found.image is None else found.image[i].copy()
            results.append(BatchResult(job.index, image, found.kernel[i].copy(), split_info(found.info, i, count)))
        return results

    def _call(self, picture: Any, rank: int | None = None) -> BlindResult:
        """`deblur` of a picture, or of a stack of pictures of that rank."""
        settings, axis = self._settings, self._settings["channel_axis"]
        if rank is not None and axis is not None and axis >= 0:
            settings = settings | {"channel_axis": axis - rank}  # counted from the end, where a stack adds nothing
        return deblur(picture, device=self._device, callback=lambda *_: self._flow.stopping, **settings)


def stackable(one: Any, other: Any, channel_axis: int | None) -> bool:
    rank = 2 if channel_axis is None else 3
    return (
        isinstance(one, np.ndarray)
        and one.ndim == rank
        and (one.shape, one.dtype.str) == (other.shape, other.dtype.str)
    )


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
