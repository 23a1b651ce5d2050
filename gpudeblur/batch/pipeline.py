"""Many pictures through threads, in order and within bounds: what the threads of `batch.deblur_batch` share.

One lock, one word to stop. A reader thread takes pictures from the user's iterable and hands each to a lane (threads on
the CPU in `batch`, groups on a device in `groups`); the lanes put results back by their index; the user's thread takes
them in order. No thread refers to the iterator that the user holds, so dropping that one ends them all.

The user's thread is the one where Ctrl-C is raised, and Python may raise it on the way into a `threading.Condition`,
which leaves its lock taken for good. What runs in that thread therefore takes the bare lock, which cannot be left so,
and waits in a `SimpleQueue`.
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

from ..numerics.arrays import Array

# Seconds that an end waits for its threads: they look at `Flow.stopping` between the steps of a picture. A reader that
# is stuck in the user's code cannot be told; it is a daemon and ends at its next picture.
JOIN_TIMEOUT = 5.0


@dataclass(frozen=True, eq=False)
class BatchResult:
    """What became of one picture.

    Attributes
    ----------
    index : int
        Its place among the pictures that came, from 0.
    image, kernel, info
        As in `BlindResult`; None, None and {} where there is an error.
    error : Exception or None
        What `deblur` raises for this picture alone.
    """

    index: int
    image: Array | None
    kernel: Array | None
    info: dict[str, Any]
    error: Exception | None = None


@dataclass(eq=False)
class Task:
    """A picture on its way."""

    index: int
    picture: Any


class Executor(Protocol):
    """A way for pictures. All of it runs in the reader's thread; `held` of `capacity` is in flight."""

    capacity: int
    held: int

    def check(self, picture: Any) -> Exception | None:
        """What is known to be wrong with the picture before it goes on its way."""

    def cost(self, picture: Any) -> int: ...
    def add(self, job: Task) -> None:
        """Under the lock."""


@dataclass(eq=False)
class Pipeline:
    """The state that all threads of one call share. `changed` guards it and tells of every change.

    `lock` is that of `changed`, for the user's thread; `news` tells that one of what it may wait for.
    """

    choose: Callable[[Pipeline, Any], Executor]
    lanes: list[Executor] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)
    changed: threading.Condition = field(init=False)
    news: SimpleQueue[None] = field(default_factory=SimpleQueue)
    stopping: bool = False
    ended: bool = False  # nothing more will be read ...
    reader_error: BaseException | None = None  # ... because of this
    failure: BaseException | None = None  # of a thread of ours: a bug, told to the user rather than waited for
    last_read: float = 0.0
    read: int = 0
    results: dict[int, BatchResult] = field(default_factory=dict)
    warnings: deque[str] = field(default_factory=deque)
    threads: list[threading.Thread] = field(default_factory=list)
    at_end: ExitStack = field(default_factory=ExitStack)
    _held: dict[int, tuple[Executor, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.changed = threading.Condition(self.lock)

    # ---- threads

    def start(self, work: Callable[[], None], name: str) -> None:
        """Run `work` in a thread of this flow. What it raises ends the flow, and reaches the user."""

        def run() -> None:
            try:
                work()
            except BaseException as why:  # noqa: BLE001 - handed to the user's thread
                with self.changed:
                    self.failure = self.failure or why
                    self.changed.notify_all()
                self.news.put(None)

        # A daemon: it must not keep the interpreter alive if the user leaves in the middle.
        thread = threading.Thread(target=run, name=f"gpudeblur-{name}", daemon=True)
        with self.lock:
            if self.stopping:
                return
            self.threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End all threads, and forget what they did."""
        with self.lock:
            self.stopping = True
            self.changed.notify_all()
            threads = list(self.threads)
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
        """Whether nothing more is read until a result is taken."""
        return any(lane.held >= lane.capacity for lane in self.lanes)

    def read_all(self, pictures: Iterable[Any]) -> None:
        """Read `pictures` as room comes, to the end or to the first error; then close their iterator."""
        iterator = None
        try:
            iterator = iter(pictures)
            while self._wait_for_room():
                try:
                    picture = next(iterator)
                except StopIteration:
                    break
                self._admit(picture)
                del picture
        except BaseException as why:  # noqa: BLE001 - the user's own, raised to the user after the results before it
            self.reader_error = why
        finally:
            try:
                close = getattr(iterator, "close", None)
                if callable(close):
                    close()
            except BaseException as why:  # noqa: BLE001 - likewise
                self.reader_error = self.reader_error or why
            with self.changed:
                self.ended = True
                self.changed.notify_all()
            self.news.put(None)

    def _wait_for_room(self) -> bool:
        with self.changed:
            while not self.stopping and self.full:
                self.changed.wait()
            return not self.stopping

    def _admit(self, picture: Any) -> None:
        lane = self.choose(self, picture)
        error, cost = lane.check(picture), lane.cost(picture)
        with self.changed:
            job = Task(self.read, picture)
            self._held[job.index] = lane, cost
            lane.held += cost
            self.read += 1
            self.last_read = time.monotonic()
            if error is None:
                lane.add(job)
            else:
                self.finish(BatchResult(job.index, None, None, {}, error))
            self.changed.notify_all()

    # ---- the lanes' side

    def get(self, queue: deque[Any]) -> Any:
        """The next item of a queue between threads, when there is one; None at the end."""
        with self.changed:
            while not queue and not self.stopping:
                self.changed.wait()
            if self.stopping:
                return None
            item = queue.popleft()
            self.changed.notify_all()
            return item

    def put(self, queue: deque[Any], item: Any) -> None:
        """Into a queue that holds one item, when it is empty."""
        with self.changed:
            while queue and not self.stopping:
                self.changed.wait()
            queue.append(item)
            self.changed.notify_all()

    def finish(self, result: BatchResult) -> None:
        if result.error is not None:
            clear_tracebacks(result.error)
        with self.changed:
            self.results[result.index] = result
            self.changed.notify_all()
        self.news.put(None)

    # ---- the user's side

    def take(self, index: int) -> BatchResult:
        """The result of that picture, when it is there; after the last one the reader's error, or StopIteration."""
        while True:
            with self.lock:
                if index in self.results:
                    lane, cost = self._held.pop(index)
                    lane.held -= cost
                    self.changed.notify_all()
                    return self.results.pop(index)
                if self.failure is not None:
                    raise self.failure
                if self.ended and index >= self.read:
                    raise self.reader_error or StopIteration
            self.news.get()


def clear_tracebacks(error: BaseException) -> None:
    """Empty the frames behind an error: they hold all arrays of the run, for as long as the user keeps the error."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
