"""CUDA graphs: thousands of launches of a function are captured once and replayed by a single launch.

Imported only on branches that hold a CuPy array, like `numerics.cuda`. The first call of a function runs it directly,
on the streams and in the memory of its future graph, which compiles its CUDA kernels, sends constants and makes FFT
plans. The second call captures it, and later calls launch the graph. So a capture allocates, plans and sends nothing.

All graphs of a thread and stream share their memory and FFT plans, since they run one after the other. Their outputs
are copied right after a launch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import cupy

from . import device
from .constants import NotReadyError, capture, capture_lock, lasting_memory, limit_size, total_bytes
from .cuda import launches
from .device import MEMORY_FRACTION
from .user_warnings import warn

MAX_GRAPHS = 64
MAX_ATTEMPTS = 3  # at a graph: another thread can make a capture fail, or use up the memory
MAX_CONTEXTS = 8  # streams of a thread whose graphs are kept
GRAPH_PIXELS = 1 << 23  # in a larger stack, a CUDA kernel takes longer than its launch from Python
BRANCH_PIXELS = 1 << 20  # a larger stack occupies the whole device without branches

Report = Callable[[float], None]


def _silent(_: float) -> None:
    pass


class _Context:
    """The streams on which the functions of one caller's stream are captured, and the memory of their graphs."""

    def __init__(self) -> None:
        blocks = self._blocks = []  # type: list[Any]

        def allocate(size: int) -> Any:
            try:
                blocks.append(cupy.cuda.Memory(size))
            except Exception as why:
                if not device.is_out_of_memory(why):
                    raise
                cupy.get_default_memory_pool().free_all_blocks()
                blocks.append(cupy.cuda.Memory(size))
            return cupy.cuda.MemoryPointer(blocks[-1], 0)

        # Between launches the pool takes a graph's memory for free and may return it to CUDA when an allocation fails.
        # `_blocks` keeps it.
        self._pool = cupy.cuda.MemoryPool(allocate)
        self._device = cupy.cuda.Device()
        self.stream = cupy.cuda.Stream(non_blocking=True)  # the default stream cannot capture
        self.forks = False  # whether the running function may use the branches
        self._branches: list[Any] = []

    def __del__(self) -> None:
        """A pool of CuPy 14 does not free its blocks when it is deleted."""
        with suppress(Exception), self._device:  # CUDA may be gone
            self._pool.free_all_blocks()

    @property
    def size(self) -> int:
        return sum(memory.size for memory in self._blocks)

    @property
    def pointers(self) -> set[int]:
        """The pointers of its streams."""
        return {stream.ptr for stream in (self.stream, *self._branches)}

    def branches(self, count: int) -> list[Any]:
        while len(self._branches) < count:
            self._branches.append(cupy.cuda.Stream(non_blocking=True))
        return self._branches[:count]

    def run(self, function: Callable[..., tuple[Any, ...]], arrays: tuple[Any, ...], report: Report) -> Any:
        """`function(*arrays)` on the streams and in the memory of this context, ordered with the caller's stream."""
        caller = cupy.cuda.get_current_stream()

        def report_outside(fraction: float) -> None:
            with lasting_memory(), caller:  # a user's callback may keep arrays
                report(fraction)

        self.stream.wait_event(_recorded(caller))
        try:
            outputs = self._call(function, arrays, report_outside)
        finally:
            caller.wait_event(_recorded(self.stream))
        return tuple(output.copy() for output in outputs)

    def capture(self, function: Callable[..., tuple[Any, ...]], inputs: Any, outputs: Any) -> Any:
        """The CUDA graph that writes `function(*inputs)` to `outputs`, and the constants and plans that it uses."""
        with capture_lock, cupy.cuda.using_allocator(self._pool.malloc), self.stream:
            self.stream.begin_capture()
            capture.uses = {}
            try:
                for output, result in zip(outputs, self._call(function, inputs, _silent), strict=True):
                    output[...] = result
            except BaseException:
                with suppress(Exception):  # the stream must leave the capture; the first error is raised
                    self.stream.end_capture()
                raise
            finally:
                uses, capture.uses = capture.uses, None
            return self.stream.end_capture(), uses

    def _call(self, function: Callable[..., tuple[Any, ...]], arrays: tuple[Any, ...], report: Report) -> Any:
        state = device.state()
        state.context, self.forks = self, math.prod(arrays[0].shape) <= BRANCH_PIXELS
        try:
            with cupy.cuda.using_allocator(self._pool.malloc), self.stream:
                return function(*arrays, report=report)
        finally:
            state.context = None


def _join(origin: Any, stream: Any) -> None:
    origin.wait_event(_recorded(stream))


def _recorded(stream: Any) -> Any:
    """An event after all work queued on the stream."""
    return stream.record(cupy.cuda.Event(disable_timing=True))


class _Graph:
    """The CUDA graph of a function, with its own memory for inputs and outputs once it is captured."""

    def __init__(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        self._shapes = [[(array.shape, array.dtype) for array in arrays] for arrays in (inputs, outputs)]
        self._inputs, self._outputs = [], []  # type: list[Any], list[Any]
        self._graph: Any = None
        self._driver_bytes = 0  # of CUDA for the graph

    @property
    def is_captured(self) -> bool:
        return self._graph is not None

    @property
    def size(self) -> int:
        return self._driver_bytes + sum(array.nbytes for array in (*self._inputs, *self._outputs))

    def capture(self, context: _Context, function: Callable[..., tuple[Any, ...]]) -> None:
        inputs, outputs = ([cupy.empty(*shape) for shape in shapes] for shapes in self._shapes)
        free = cupy.cuda.Device().mem_info[0]
        self._graph, self._uses = context.capture(function, inputs, outputs)
        self._graph.upload()
        self._driver_bytes = max(0, free - cupy.cuda.Device().mem_info[0])
        self._context, self._inputs, self._outputs = context, inputs, outputs

    def __call__(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        for target, array in zip(self._inputs, arrays, strict=True):
            target[...] = array
        self._graph.launch()
        launches["graph"] += 1
        return tuple(output.copy() for output in self._outputs)  # the next replay overwrites them


def replay(
    key: Hashable, function: Callable[..., tuple[Any, ...]], *arrays: Any, report: Report = _silent
) -> tuple[Any, ...]:
    """`function(*arrays, report=report)`, as a CUDA graph from the second call with the same `key` and shapes on.

    A stack of more than GRAPH_PIXELS never becomes a graph. If captures fail, a RuntimeWarning says why and the
    function runs directly. If memory runs out, all caches are freed and the function runs once more. Within a replayed
    function, this is a plain call.

    Parameters
    ----------
    key : with the shapes of the arrays, it determines what the function does.
    function : returns a tuple of arrays. It must not wait for the device, and may read only `arrays` and constants.
    arrays : on the current device. The first one is the stack of images, whose size decides about a graph.
    report : called with the fraction done; for a graph once, after its launch.
    """
    state, stream = device.state(), cupy.cuda.get_current_stream()
    stream_key = (cupy.cuda.Device().id, stream.ptr)
    key = (stream_key, key, *((array.shape, array.dtype.char) for array in arrays))
    if state.context is not None:
        return function(*arrays, report=report)
    try:
        return _replay(state, stream_key, key, function, arrays, report)
    except Exception as why:
        if not device.is_out_of_memory(why):
            raise
    # The arrays of the failed run are gone now; without the memory of graphs and plans the next run may fit.
    state.failures[key] += 1
    device.clear()
    cupy.get_default_memory_pool().free_all_blocks()
    return function(*arrays, report=report)


def _replay(
    state: device.State,
    stream_key: Hashable,
    key: Hashable,
    function: Callable[..., tuple[Any, ...]],
    arrays: tuple[Any, ...],
    report: Report,
) -> tuple[Any, ...]:
    if math.prod(arrays[0].shape) > GRAPH_PIXELS or state.failures[key] >= MAX_ATTEMPTS:
        return function(*arrays, report=report)
    graph = state.graphs.get(key)
    if graph is not None and (graph.is_captured or _capture(state, stream_key, key, function)):
        state.graphs.move_to_end(key)
        outputs = graph(arrays)
        report(1.0)
        return outputs
    outputs = _context(state, stream_key).run(function, arrays, report)
    if key not in state.graphs:
        state.graphs[key] = _Graph(arrays, outputs)
        limit_size(state.graphs, MAX_GRAPHS, MEMORY_FRACTION, lambda graph: graph.size)
    return outputs


def _capture(state: device.State, stream_key: Hashable, key: Hashable, function: Callable[..., Any]) -> bool:
    """Capture the graph of this key; whether that succeeded."""
    context = _context(state, stream_key)
    if context.size > MEMORY_FRACTION * total_bytes() and any(graph.is_captured for graph in state.graphs.values()):
        state.failures[key] += (
            1  # so that a graph that is too large by itself does not clear the caches again and again
        )
        state.clear()  # graphs share their memory, so they are freed together
        return False
    try:
        state.graphs[key].capture(context, function)
    except NotReadyError:  # a plan or constant was dropped since the last run; the next run makes it again
        return False
    except RuntimeError as why:  # includes CUDA's errors
        if device.is_out_of_memory(why):
            raise
        state.failures[key] += 1
        if state.failures[key] == MAX_ATTEMPTS:
            text = f"CUDA graph not captured, launching one by one instead: {why}"
            warn(text, RuntimeWarning)
        return False
    return True


def _context(state: device.State, stream_key: Hashable) -> _Context:
    contexts = state.contexts
    if stream_key not in contexts:
        contexts[stream_key] = _Context()
        if len(contexts) > MAX_CONTEXTS:
            oldest, context = contexts.popitem(last=False)
            for key in [key for key in state.graphs if key[0] == oldest]:  # type: ignore[index]
                del state.graphs[key]
            for key in [key for key in state.plans if key[1] in context.pointers]:  # type: ignore[index]
                del state.plans[key]
    contexts.move_to_end(stream_key)
    return contexts[stream_key]


def branches(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of independent functions.

    Within a replayed function of a small stack, each runs on its own stream, which makes parallel branches of the
    graph. Elsewhere they run one after the other.
    """
    context, origin = device.state().context, cupy.cuda.get_current_stream()
    if context is None or not context.forks or origin != context.stream or len(functions) < 2:
        return [function() for function in functions]
    begin = _recorded(origin)
    results = []
    with ExitStack() as ends:
        for function, stream in zip(functions, context.branches(len(functions)), strict=True):
            stream.wait_event(begin)
            ends.callback(_join, origin, stream)
            with stream:
                results.append(function())
    return results
