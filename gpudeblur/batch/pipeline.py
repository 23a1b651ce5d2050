"""The threads of one batch: a reader, executors on CPU and GPU, and results in the order of the images.

A reader thread takes images from the user's iterable and submits each to an executor (`cpu`, `gpu`). The executors
store results by index, and the user's thread takes them in order. All state is guarded by one lock, and `stopping` ends
every thread. No thread refers to the iterator that the user holds, so dropping that iterator ends them all.

Ctrl-C is raised in the user's thread. If it comes while a `threading.Condition` is being entered, the condition's lock
stays locked for good. The user's thread therefore takes the lock itself, which is safe, and waits on a `SimpleQueue`.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from ..blind.info import Info
from ..numerics.arrays import Array
from ..numerics.interchange import is_foreign, library_of, to_native
from .masks import Masks

# Seconds that `stop` waits for the threads. They check `stopping` between the steps of an image. A reader that waits in
# the user's code cannot be interrupted: it is a daemon thread and ends when that code returns.
JOIN_TIMEOUT = 5.0


class NoThreadError(RuntimeError):
    """The system starts no more threads."""


@dataclass(frozen=True, eq=False)
class BatchResult:
    """The result of one image, or of one burst.

    Attributes
    ----------
    index : int
        Its position in the input, from 0.
    image, kernel, info
        As in `BlindResult`, with a network as in `RestoreResult`; None, None and {} if there is an error.
    error : Exception or None
        What `deblur` or `restore` raises for this image alone.
    """

    index: int
    image: Array | None
    kernel: Array | None
    info: Info
    error: Exception | None = None


@dataclass(eq=False)
class Task:
    """An image to deblur, its white level if it is known, and its mask."""

    index: int
    image: Any
    white: float | None = None
    mask: Any = None


class Executor(Protocol):
    """Computes the images submitted to it. The reader's thread calls all methods.

    `in_flight` is the total size of the images that are submitted and whose results are not taken yet. No image is read
    while it has reached `limit`.
    """

    limit: int
    in_flight: int

    def check(self, image: Any, mask: Any) -> Exception | None:
        """The error of an image that cannot be computed, or of its mask."""

    def size(self, image: Any) -> int:
        """What the image adds to `in_flight`."""

    def add(self, task: Task) -> None:
        """Queue a task. Called with the lock held."""


@dataclass(eq=False)
class Pipeline:
    """The state that all threads of one batch share. `changed` guards it and announces every change.

    `lock` is the lock of `changed`, for the user's thread; an item in `wakeup` tells that thread to look again.
    """

    choose: Callable[[Pipeline, Any], Executor]
    white_of: Callable[[Pipeline, Any, Any], float | None] = lambda *_: None
    masks: Masks = field(default_factory=Masks)
    executors: list[Executor] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)
    changed: threading.Condition = field(init=False)
    wakeup: SimpleQueue[None] = field(default_factory=SimpleQueue)
    stopping: bool = False
    ended: bool = False  # nothing more will be read
    reader_error: BaseException | None = None  # raised by the user's iterable
    thread_error: BaseException | None = None  # raised by the library's own threads: a bug
    last_read: float = 0.0  # time.monotonic()
    read_count: int = 0
    warned_of_white: bool = False
    results: dict[int, BatchResult] = field(default_factory=dict)
    # The fraction done of what is being computed, times the images in it, by the index of its first image.
    computing: dict[int, float] = field(default_factory=dict)
    # Of the images that are neither NumPy's nor CuPy's: by index, the module of their library.
    libraries: dict[int, Any] = field(default_factory=dict)
    warnings: deque[str | Warning] = field(default_factory=deque)
    threads: list[threading.Thread] = field(default_factory=list)
    at_end: ExitStack = field(default_factory=ExitStack)
    _in_flight: dict[int, tuple[Executor, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.changed = threading.Condition(self.lock)

    # ---- threads

    def start(self, target: Callable[[], None], name: str) -> None:
        """Run `target` in a thread of this pipeline. What it raises ends the batch and reaches the user.

        Raises
        ------
        NoThreadError
            The system starts no more threads.
        """

        def run() -> None:
            try:
                target()
            except BaseException as error:  # noqa: BLE001 - raised again in the user's thread
                with self.changed:
                    self.thread_error = self.thread_error or error
                    self.changed.notify_all()
                self.wakeup.put(None)

        # A daemon: it must not keep the interpreter alive if the user leaves in the middle.
        thread = threading.Thread(target=run, name=f"gpudeblur-{name}", daemon=True)
        with self.lock:
            if self.stopping:
                return
            try:
                thread.start()
            except RuntimeError as error:  # a limit of processes or of memory
                raise NoThreadError(
                    f"the batch needs another thread, but the system starts none ({error}); raise the limit of "
                    "processes and threads (ulimit -u, docker run --pids-limit)"
                ) from error
            self.threads.append(thread)  # after its start: `stop` joins these

    def stop(self) -> None:
        """End all threads and drop their results."""
        with self.lock:
            self.stopping = True
            self.changed.notify_all()
            threads = list(self.threads)
        self.wakeup.put(None)
        try:
            if threading.current_thread() not in threads:  # the garbage collector may call from one of them
                deadline = time.monotonic() + JOIN_TIMEOUT
                for thread in threads:
                    thread.join(max(0.0, deadline - time.monotonic()))
        finally:
            self.results.clear()
            self.at_end.close()

    # ---- the reader's side

    @property
    def full(self) -> bool:
        """Whether reading waits until a result is taken."""
        return any(executor.in_flight >= executor.limit for executor in self.executors)

    def read_all(self, images: Iterable[Any]) -> None:
        """Read `images` and `masks` within the executors' limits, to the end or the first error; then close both."""
        iterator = None
        try:
            iterator = iter(images)
            while self._wait_while_full():
                try:
                    image = next(iterator)
                except StopIteration:
                    self.masks.check_end(self.read_count)
                    break
                self._submit(image, self.masks.next(self.read_count))
                del image
        except BaseException as error:  # noqa: BLE001 - the user's own, raised after the results before it
            self.reader_error = error
        finally:
            for iterable in (iterator, self.masks):
                try:
                    close = getattr(iterable, "close", None)
                    if callable(close):
                        close()
                except BaseException as error:  # noqa: BLE001 - likewise
                    self.reader_error = self.reader_error or error
            with self.changed:
                self.ended = True
                self.changed.notify_all()
            self.wakeup.put(None)

    def _wait_while_full(self) -> bool:
        with self.changed:
            while not self.stopping and self.full:
                self.changed.wait()
            return not self.stopping

    def _submit(self, image: Any, mask: Any) -> None:
        error: Exception | None = None
        try:
            if is_foreign(image):
                self.libraries[self.read_count] = library_of(image, "image")
            image, mask = to_native(image, "image"), to_native(mask, "mask")
        except (TypeError, ValueError, RuntimeError) as caught:
            error, image = caught, np.empty((0, 0))
        executor = self.choose(self, image)
        error = error or executor.check(image, mask)
        size, white = executor.size(image), None
        if error is None:
            try:
                white = self.white_of(self, image, mask)
            except ValueError as caught:
                error = caught
        with self.changed:
            task = Task(self.read_count, image, white, mask)
            self._in_flight[task.index] = executor, size
            executor.in_flight += size
            self.last_read = time.monotonic()
            if error is None:
                executor.add(task)
            else:
                self.finish(BatchResult(task.index, None, None, {}, error))
            self.read_count += 1  # last: `take` waits for the results of all that are counted
            self.changed.notify_all()

    # ---- the executors' side

    def get(self, queue: deque[Any]) -> Any:
        """The next item of a queue between threads, as soon as there is one; None once the batch is stopping."""
        with self.changed:
            while not queue and not self.stopping:
                self.changed.wait()
            if self.stopping:
                return None
            item = queue.popleft()
            self.changed.notify_all()
            return item

    def put(self, queue: deque[Any], item: Any) -> None:
        """Append to a queue of at most one item, as soon as it is empty."""
        with self.changed:
            while queue and not self.stopping:
                self.changed.wait()
            queue.append(item)
            self.changed.notify_all()

    def advance(self, index: int, images: float) -> bool:
        """Note what is done of the images from `index` on that are being computed; whether the batch is stopping."""
        self.computing[index] = images
        if self.wakeup.empty():
            self.wakeup.put(None)
        return self.stopping

    def finish(self, result: BatchResult) -> None:
        """Store a result for the user's thread."""
        if result.error is not None:
            clear_tracebacks(result.error)
        with self.changed:
            self.results[result.index] = result
            self.computing.pop(result.index, None)
            self.changed.notify_all()
        self.wakeup.put(None)

    # ---- the user's side

    @property
    def ahead(self) -> float:
        """What is computed and not taken, in images."""
        with self.lock:
            return len(self.results) + sum(list(self.computing.values()))

    def take(self, index: int, report: Callable[[], None]) -> BatchResult:
        """Wait for the result of that image. After the last one, raise the reader's error or StopIteration.

        StopIteration too if another thread stops the batch. `report` is called whenever there is progress.
        """
        while True:
            with self.lock:
                if self.stopping:
                    raise StopIteration
                if index in self.results:
                    executor, size = self._in_flight.pop(index)
                    executor.in_flight -= size
                    self.changed.notify_all()
                    return self.results.pop(index)
                if self.thread_error is not None:
                    raise self.thread_error
                if self.ended and index >= self.read_count:
                    raise self.reader_error or StopIteration
            self.wakeup.get()
            report()


def clear_tracebacks(error: BaseException) -> None:
    """Clear the stack frames of an error: they refer to all arrays of the run while the user keeps the error."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
