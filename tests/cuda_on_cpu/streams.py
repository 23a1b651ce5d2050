"""The order of work on the fake device: streams, events, captures and graphs.

Everything runs at once, on the host, under one lock. What a GPU might have done in another order is found by vector
clocks: an operation is known by its stream and its number there, and a stream's clock holds the last operation of every
stream that comes before the next of its own. There is one clock for the host, not one for each of its threads: a thread
that waits for the device may hand over to another through a queue, which the fake does not see.
"""

from __future__ import annotations

import collections
import itertools
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

lock = threading.RLock()

# What the host does, whatever it works on: "calls" of CuPy, "launches" of work outside captures, "graph launches",
# "capture allocations" (that the pool had to ask the device for) and "capture plans" (that were refused).
activity: collections.Counter[str] = collections.Counter()


class Counts(collections.Counter[str]):
    """The costs that tests compare as a whole; `activity` can be asked for by key, but is not among the items."""

    def __missing__(self, key: str) -> int:
        return activity[key]

    def clear(self) -> None:
        super().clear()
        activity.clear()


counts = Counts()


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message or f"CUDA error {status}")
        self.status = status


class CUDADriverError(CUDARuntimeError):
    pass


def check_device() -> None:
    """A lost device answers everything with the same error."""
    lost = getattr(sys.modules.get("cuda_on_cpu.device"), "lost", None)
    if lost is not None:
        raise CUDARuntimeError(719, f"cudaErrorLaunchFailure: {lost}")


# ------------------------------------------------------------------ clocks
Clock = dict[int, int]  # the number of an operation by stream


def merge(clock: Clock, earlier: Clock) -> None:
    for stream, tick in earlier.items():
        if tick > clock.get(stream, 0):
            clock[stream] = tick


class History:
    """The last write to a block of memory and the reads since."""

    __slots__ = ("reads", "write")

    def __init__(self) -> None:
        self.write = (0, 0)
        self.reads: Clock = {}

    def read_by(self, stream: int, clock: Clock) -> None:
        writer, tick = self.write
        if clock.get(writer, 0) < tick:
            raise RuntimeError("memory is read on a stream that no event orders after the write")
        self.reads[stream] = clock[stream]

    def written_by(self, stream: int, clock: Clock) -> None:
        writer, tick = self.write
        if clock.get(writer, 0) < tick:
            raise RuntimeError("memory is written on a stream that no event orders after the last write")
        for reader, tick in self.reads.items():
            if clock.get(reader, 0) < tick:
                raise RuntimeError("memory is written on a stream that no event orders after a read of it")
        self.write = (stream, clock[stream])
        self.reads = {}


class Host:
    """What the host knows to be complete, and downloads into pinned memory that are not."""

    def __init__(self) -> None:
        self.clock: Clock = {}
        self.version = 0
        self.ticks: Clock = {}  # the last operation of each stream
        self.downloads: list[tuple[int, int, np.ndarray, np.ndarray]] = []  # stream, tick, target, values

    def waits_for(self, clock: Clock) -> None:
        merge(self.clock, clock)
        self.version += 1
        for download in self.downloads[:]:
            stream, tick, target, values = download
            if self.clock.get(stream, 0) >= tick:
                target[...] = values
                self.downloads = [other for other in self.downloads if other is not download]


_host = Host()


def wait(stream: Stream, *, counted: bool = True) -> None:
    """The host waits for all work of the stream."""
    check_device()
    if stream.capture is not None:
        raise RuntimeError("operation not permitted when stream is capturing")
    if counted:
        counts["waits"] += 1
    stream.catch_up()
    _host.waits_for(stream.clock)


def wait_for_device() -> None:
    check_device()
    if current_stream().capture is not None:
        raise RuntimeError("operation not permitted when stream is capturing")
    counts["waits"] += 1
    _host.waits_for(_host.ticks)


def operation(stream: Stream, reads: Iterable[Any], writes: Iterable[Any]) -> None:
    """The next operation of a stream; a block that the operation reads and writes is in both.

    Raises
    ------
    RuntimeError
        Other streams wrote to the blocks, or read what is written to, and nothing makes this stream wait for them.
    """
    check_device()
    capture = stream.capture
    if capture is None:
        stream.catch_up()
    number, clock = stream.number, stream.clock
    clock[number] = clock.get(number, 0) + 1
    if capture is None:
        _host.ticks[number] = clock[number]
        for block in reads:
            block.history.read_by(number, clock)
        for block in writes:
            block.history.written_by(number, clock)
    else:
        for block in reads:
            capture.history(block).read_by(number, clock)
            capture.reads.add(block)
        for block in writes:
            capture.history(block).written_by(number, clock)
            capture.save(block)
            capture.writes.add(block)


def launched(stream: Stream, again: Callable[[], Any]) -> None:
    """An operation has run: counted, or put down to run `again` at each launch of the graph."""
    if stream.capture is None:
        activity["launches"] += 1
    else:
        stream.capture.operations.append(again)


def download(stream: Stream, target: np.ndarray, values: np.ndarray) -> None:
    """`values` come to `target` when the host has waited for the last operation of the stream."""
    target.reshape(-1).view(np.uint8)[...] = 0xFF
    _host.downloads.append((stream.number, stream.clock[stream.number], target, values))


# ------------------------------------------------------------------ streams and events
class Local(threading.local):
    """What is each thread's own: its current stream, its allocator (see `memory`), and the streams to go back to."""

    def __init__(self) -> None:
        self.stream = Stream.null
        self.outer: list[Stream] = []
        self.allocator: Any = None


class Stream:
    """A stream. `clock` is that of the capture while it is captured."""

    null: ClassVar[Stream]
    _numbers = itertools.count(1)
    _blocking: ClassVar[dict[int, weakref.ref[Stream]]] = {}

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        check_device()
        self.number = next(self._numbers)
        self.ptr = 0 if null else 0x5000 + 0x40 * self.number
        self.non_blocking = non_blocking
        self.clock: Clock = {}
        self.clock_outside: Clock = {}
        self.capture: Capture | None = None
        self._host_version = 0
        if not (null or non_blocking):
            blocking, number = self._blocking, self.number
            blocking[number] = weakref.ref(self, lambda _: blocking.pop(number))

    def catch_up(self) -> None:
        """What is complete comes first, and so does the work of the legacy null stream, or of the streams it blocks."""
        if self._host_version != _host.version:
            self._host_version = _host.version
            merge(self.clock, _host.clock)
        if self.ptr == 0:
            for reference in list(self._blocking.values()):
                if (stream := reference()) is not None:
                    merge(self.clock, stream.clock_outside if stream.capture else stream.clock)
        elif not self.non_blocking:
            merge(self.clock, Stream.null.clock)

    def __enter__(self) -> Stream:
        local.outer.append(local.stream)
        local.stream = self
        return self

    def __exit__(self, *_: Any) -> None:
        local.stream = local.outer.pop()

    def is_capturing(self) -> bool:
        return self.capture is not None

    def synchronize(self) -> None:
        with lock:
            wait(self)

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        with lock:
            check_device()
            if event.capture is None and self.capture is not None:
                raise RuntimeError("dependency created on uncaptured work in another stream")
            if event.capture is not None and self.capture is None:
                event.capture.join(self)
            if event.capture is not self.capture:
                raise RuntimeError("operation would make the capture depend on another capture")
            merge(self.clock, event.clock)

    def begin_capture(self, mode: Any = None) -> None:
        with lock:
            check_device()
            if not self.non_blocking or self.capture is not None:
                raise RuntimeError("operation not permitted: the stream must be non-blocking and not capturing yet")
            from cuda_on_cpu import memory

            Capture(self, memory.pool_in_force()).join(self)

    def end_capture(self) -> Graph:
        with lock:
            if self.capture is None or self.capture.origin is not self:
                raise RuntimeError("the capture was not begun on this stream")
            return self.capture.end()


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        check_device()
        self.disable_timing = disable_timing
        self.clock: Clock = {}
        self.capture: Capture | None = None
        self.seconds: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        with lock:
            check_device()
            stream = local.stream if stream is None else stream
            self.capture = stream.capture
            if self.capture is None:
                stream.catch_up()
            self.clock = dict(stream.clock)
            self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        with lock:
            check_device()
            if self.capture is not None:
                raise RuntimeError("operation not permitted on an event last recorded in a capturing stream")
            _host.waits_for(self.clock)
            counts["waits"] += 1


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds that the host took."""
    if start.seconds is None or end.seconds is None or start.disable_timing or end.disable_timing:
        raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle: invalid resource handle")
    return 1e3 * (end.seconds - start.seconds)


def current_stream(device_id: int = -1) -> Stream:
    return local.stream


# ------------------------------------------------------------------ captures and graphs
class Capture:
    """A capture: its operations have run once, for shapes and dtypes, but leave nothing behind."""

    def __init__(self, origin: Stream, pool: Any) -> None:
        self.origin, self.pool = origin, pool
        self.streams: list[Stream] = []
        self.ended = False
        self.operations: list[Callable[[], Any]] = []
        self.histories: dict[Any, History] = {}  # by block; order among the operations of the capture
        self.generations: dict[Any, int] = {}
        self.reads: set[Any] = set()
        self.writes: set[Any] = set()
        self.allocations: set[Any] = set()  # blocks, whose contents mean nothing before the first launch
        self.contents: dict[Any, np.ndarray] = {}  # of all other blocks that are written to
        self.plans: set[Any] = set()

    def history(self, block: Any) -> History:
        history = self.histories.get(block)
        if history is None:
            history = self.histories[block] = History()
            self.generations[block] = block.generation
        return history

    def save(self, block: Any) -> None:
        if block not in self.allocations and block not in self.contents:
            self.contents[block] = block.buffer.copy()

    def join(self, stream: Stream) -> None:
        if self.ended:
            raise RuntimeError("the event was recorded in a capture that has ended")
        if stream.ptr == 0:
            raise RuntimeError("the legacy null stream cannot be captured")
        stream.clock, stream.clock_outside = {}, stream.clock
        stream.capture = self
        self.streams.append(stream)

    def end(self) -> Graph:
        self.ended = True
        clock = self.origin.clock
        joined = all(clock.get(s.number, 0) >= s.clock.get(s.number, 0) for s in self.streams)
        for stream in self.streams:
            stream.clock, stream.clock_outside = stream.clock_outside, {}
            stream.capture = None
        for block, contents in self.contents.items():
            block.buffer[...] = contents
        for block in self.allocations:
            block.buffer[...] = 0xFF
        if not joined:
            raise RuntimeError("the capture has unjoined work: a forked stream was not joined to the origin again")
        return Graph(self)


class Graph:
    """What a capture put down. It keeps neither arrays nor plans alive, and fails where CUDA would use freed memory."""

    def __init__(self, capture: Capture) -> None:
        self._operations, self._plans = capture.operations, capture.plans
        self._reads, self._writes = capture.reads, capture.writes
        # Memory of other pools must still be the arrays' that the capture saw; its own pool's is the graph's to use.
        state = getattr(capture.pool, "state", None)
        self._generations = {
            block: generation
            for block, generation in capture.generations.items()
            if state is None or block.pool_state is not state
        }

    def upload(self, stream: Stream | None = None) -> None:
        check_device()

    def launch(self, stream: Stream | None = None) -> None:
        from cuda_on_cpu import memory

        with lock:
            check_device()
            activity["calls"] += 1
            stream = local.stream if stream is None else stream
            if stream.capture is not None:
                raise RuntimeError("a graph launched on a capturing stream would be its child, which the fake has not")
            memory.collect()
            if any(plan.destroyed for plan in self._plans):
                raise RuntimeError("use after free: the graph runs a cuFFT plan that was destroyed")
            if any(block.freed for block in self._reads | self._writes):
                raise RuntimeError("use after free: the graph uses memory that was given back to the device")
            if any(block.generation != generation for block, generation in self._generations.items()):
                raise RuntimeError("use after free: the graph uses the memory of an array that is gone")
            operation(stream, self._reads, self._writes)
            with np.errstate(all="ignore"):
                for run in self._operations:
                    run()
            activity["graph launches"] += 1


Stream.null = Stream(null=True)
local = Local()
