"""CUDA graphs: a function of arrays, asked for once with thousands of launches, replayed with one.

Imported only where there is a CuPy array, like `numerics.cuda`. A function comes here three times: at first it runs
as it is, on the streams and in the memory that its graph will have, which compiles its CUDA kernels, sends constants
and makes FFT plans; then it is captured; from then on the graph is launched. So a capture allots nothing, plans nothing
and sends nothing.

All graphs of a thread and stream share their memory and FFT plans: they run one after the other. What is read after
a launch (their outputs) is copied at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import cupy

from . import device
from .constants import NotReadyError, bound, capture, capture_lock, lasting_memory, total_bytes
from .cuda import launches
from .device import SHARE
from .user_warnings import warn

GRAPHS = 64
ATTEMPTS = 3  # at a graph: what another thread does can spoil a capture, or leave no memory
CONTEXTS = 8  # streams of a thread whose graphs are kept
GRAPH_PIXELS = 1 << 23  # in a larger stack, a launch takes longer than Python takes to ask for it
BRANCH_PIXELS = 1 << 20  # a larger stack fills the device by itself

Report = Callable[[float], None]


def _silent(_: float) -> None:
    pass


class _Context:
    """The streams on which functions are captured for one stream of the caller, and the memory of their graphs."""

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

        # Memory that a graph uses between its launches is free to the pool, which may give it back to CUDA when an
        # allocation fails. `_blocks` holds it.
        self._pool = cupy.cuda.MemoryPool(allocate)
        self._device = cupy.cuda.Device()
        self.stream = cupy.cuda.Stream(non_blocking=True)  # the default stream cannot capture
        self.forks = False  # whether the function that runs now may use the branches
        self._branches: list[Any] = []

    def __del__(self) -> None:
        """A pool of CuPy 14 that is dropped keeps its free blocks for good."""
        with suppress(Exception), self._device:  # CUDA may be gone
            self._pool.free_all_blocks()

    @property
    def size(self) -> int:
        return sum(memory.size for memory in self._blocks)

    @property
    def pointers(self) -> set[int]:
        """Of its streams."""
        return {stream.ptr for stream in (self.stream, *self._branches)}

    def branches(self, count: int) -> list[Any]:
        while len(self._branches) < count:
            self._branches.append(cupy.cuda.Stream(non_blocking=True))
        return self._branches[:count]

    def run(self, function: Callable[..., tuple[Any, ...]], arrays: tuple[Any, ...], report: Report) -> Any:
        """`function(*arrays)` on this context's streams, in its memory, in turn with the caller's stream."""
        caller = cupy.cuda.get_current_stream()

        def report_outside(fraction: float) -> None:
            with lasting_memory(), caller:  # what a user's callback keeps is not of the graphs' memory
                report(fraction)

        self.stream.wait_event(_recorded(caller))
        try:
            outputs = self._call(function, arrays, report_outside)
        finally:
            caller.wait_event(_recorded(self.stream))
        return tuple(output.copy() for output in outputs)

    def capture(self, function: Callable[..., tuple[Any, ...]], inputs: Any, outputs: Any) -> Any:
        """The CUDA graph that puts `function(*inputs)` into `outputs`, and what it reads besides."""
        with capture_lock, cupy.cuda.using_allocator(self._pool.malloc), self.stream:
            self.stream.begin_capture()
            capture.uses = {}
            try:
                for output, result in zip(outputs, self._call(function, inputs, _silent), strict=True):
                    output[...] = result
            except BaseException:
                with suppress(Exception):  # the stream must leave the capture, and the cause be told
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
    """An event after all that the stream has been asked for."""
    return stream.record(cupy.cuda.Event(disable_timing=True))


class _Graph:
    """The CUDA graph of a function, once it is captured, with memory of its own for inputs and outputs."""

    def __init__(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        self._shapes = [[(array.shape, array.dtype) for array in arrays] for arrays in (inputs, outputs)]
        self._inputs, self._outputs = [], []  # type: list[Any], list[Any]
        self._graph: Any = None
        self._driver_bytes = 0  # what CUDA holds for it

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
        for mine, theirs in zip(self._inputs, arrays, strict=True):
            mine[...] = theirs
        self._graph.launch()
        launches["graph"] += 1
        return tuple(output.copy() for output in self._outputs)  # the next replay writes over them


def replay(
    key: Hashable, function: Callable[..., tuple[Any, ...]], *arrays: Any, report: Report = _silent
) -> tuple[Any, ...]:
    """`function(*arrays, report=report)`, as one CUDA graph from the second time on that it comes under this `key`.

    A stack of over GRAPH_PIXELS never becomes a graph. Where captures fail, a RuntimeWarning says why, and the function
    runs as it is. Where memory runs out, what is kept is given back, and the function runs once more. Within a function
    that is replayed, this is a mere call.

    Parameters
    ----------
    key : with the shapes of the arrays, it decides what the function does.
    function : returns a tuple of arrays. It must wait for nothing, and not read what was computed outside of it but for
        `arrays` and constants.
    arrays : on the current device. The first one is the stack of pictures, whose size decides.
    report : called with the fraction done; by a graph once, when it has been launched.
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
    # Now that the arrays of the failed run are gone: without the memory of graphs and plans it may fit.
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
    if math.prod(arrays[0].shape) > GRAPH_PIXELS or state.failures[key] >= ATTEMPTS:
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
        bound(state.graphs, GRAPHS, SHARE, lambda graph: graph.size)
    return outputs


def _capture(state: device.State, stream_key: Hashable, key: Hashable, function: Callable[..., Any]) -> bool:
    """Whether the graph of this key could be captured."""
    context = _context(state, stream_key)
    if context.size > SHARE * total_bytes() and any(graph.is_captured for graph in state.graphs.values()):
        state.failures[key] += 1  # where this alone is too much, it is not to clear for ever
        state.clear()  # the memory of one graph cannot be told from that of another
        return False
    try:
        state.graphs[key].capture(context, function)
    except NotReadyError:  # a plan or constant was pushed out since the last time; the next run makes it
        return False
    except RuntimeError as why:  # CUDA's own errors are such, too
        if device.is_out_of_memory(why):
            raise
        state.failures[key] += 1
        if state.failures[key] == ATTEMPTS:
            text = f"CUDA graph not captured, launching one by one instead: {why}"
            warn(text, RuntimeWarning)
        return False
    return True


def _context(state: device.State, stream_key: Hashable) -> _Context:
    contexts = state.contexts
    if stream_key not in contexts:
        contexts[stream_key] = _Context()
        if len(contexts) > CONTEXTS:
            oldest, context = contexts.popitem(last=False)
            for key in [key for key in state.graphs if key[0] == oldest]:  # type: ignore[index]
                del state.graphs[key]
            for key in [key for key in state.plans if key[1] in context.pointers]:  # type: ignore[index]
                del state.plans[key]
    contexts.move_to_end(stream_key)
    return contexts[stream_key]


def branches(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the functions return, which must not depend on each other.

    In a function that is replayed for a small stack each runs on a stream of its own, which in a graph makes parallel
    branches; elsewhere one after the other.
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
