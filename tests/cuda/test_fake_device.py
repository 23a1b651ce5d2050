"""The fake CuPy of cuda_on_cpu/: that it fails where a GPU would compute something wrong, wait, or lose memory."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import device
from cuda_on_cpu.device import activity, counts
from cuda_on_cpu.transforms import RealPlan

FREED = "use after free"

# As CuPy gets it: what the text says of `const` decides what a launch writes to.
SOURCE = 'extern "C" __global__ void __launch_bounds__(32)\ndouble_it(const float* __restrict__ x, float* out) {}'


def cpu_kernel(name: str) -> Callable[..., None]:
    def double_it(grid: Any, block: Any, args: Any, shared_mem: int = 0) -> None:
        args[1][...] = 2 * args[0]

    return double_it


@pytest.fixture
def cupy() -> Iterator[Any]:
    with device.installed(cpu_kernel) as cupy:
        yield cupy


@pytest.fixture
def streams(cupy: Any) -> tuple[Any, ...]:
    return tuple(cupy.cuda.Stream(non_blocking=True) for _ in range(3))


class Captured:
    """A function as a graph, with a pool of its own, which holds its inputs and outputs."""

    def __init__(self, cupy: Any, function: Callable[..., Any], *inputs: Any, pool: Any = None) -> None:
        self.pool = pool or cupy.cuda.MemoryPool()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        with cupy.cuda.using_allocator(self.pool.malloc), self.stream:
            self.inputs = [cupy.empty(x.shape, x.dtype) for x in inputs]
            self.stream.begin_capture()
            try:
                self.output = function(*self.inputs)
            finally:
                self.graph = self.stream.end_capture()

    def __call__(self, *inputs: Any) -> np.ndarray:
        with self.stream:
            for mine, theirs in zip(self.inputs, inputs, strict=True):
                mine[...] = theirs
            self.graph.launch()
            return self.output.get()


def ones(cupy: Any, *shape: int) -> Any:
    """Complete: any stream may read them."""
    return cupy.asarray(np.ones(shape, np.float32), blocking=True)


def double_of_next(x: Any) -> Any:
    return (x + 1) * 2


def unordered() -> Any:
    return pytest.raises(RuntimeError, match="on a stream that no event orders after")


# ------------------------------------------------------------------ order
def test_a_read_needs_an_event_after_the_write(cupy: Any, streams: Any) -> None:
    """One recorded after it, on its stream or on one that has waited for such an event."""
    first, second, third = streams
    early = first.record()
    with first:
        x = ones(cupy, 5) + 1
    second.wait_event(early)
    with second:
        with unordered():
            x + 1
        second.wait_event(first.record())
        assert (x + 1).get().tolist() == [3] * 5
    third.wait_event(second.record())
    with third:
        x + 1


@pytest.mark.parametrize("wait", [lambda s, e: s.synchronize(), lambda s, e: e.synchronize()])
def test_the_host_orders_what_it_waited_for(cupy: Any, streams: Any, wait: Any) -> None:
    """Another thread may go on where one has waited."""
    first, second, _ = streams
    with first:
        x = ones(cupy, 5) + 1
    thread = threading.Thread(target=wait, args=(first, first.record()))
    thread.start()
    thread.join()
    with second:
        x + 1


def test_a_write_needs_an_event_after_the_reads(cupy: Any, streams: Any) -> None:
    """So, too, where the pool of `first` hands a block out again that `second` still reads."""
    first, second, _ = streams
    x = ones(cupy, 5)
    with first:
        x + 1
        y = cupy.zeros(1000, np.float32)
    with second:
        with unordered():
            x[0] = 3
        second.wait_event(first.record())
        x[0] = 3
        y + 1
    del y
    with first:
        with unordered():
            cupy.zeros(1000, np.float32)
        first.wait_event(second.record())
        cupy.zeros(1000, np.float32)


def test_the_null_stream_waits_for_blocking_streams_only(cupy: Any, streams: Any) -> None:
    blocking = cupy.cuda.Stream()
    x = ones(cupy, 5)
    with blocking:
        x += 1
    y = x + 1
    with blocking:
        y + 1
    with streams[0], unordered():
        y + 1


def test_what_is_sent_is_there_for_its_own_stream_only(cupy: Any, streams: Any) -> None:
    with streams[0]:
        complete = cupy.asarray(np.ones(3), blocking=True)
        pending = cupy.asarray(np.ones(3))
    with streams[1]:
        complete + 1
        with unordered():
            pending + 1


def test_a_cuda_kernel_reads_what_is_const(cupy: Any, streams: Any) -> None:
    launch = cupy.RawModule(code=SOURCE).get_function("double_it")
    x, out = ones(cupy, 5), ones(cupy, 5)
    for stream in streams:
        with stream:
            launch((1,), (32,), (x, cupy.empty_like(x)))
    with streams[0]:
        launch((1,), (32,), (x, out))
        assert out.get().tolist() == [2] * 5
        launch((1,), (32,), (x, out))
    with streams[1], unordered():
        launch((1,), (32,), (x, out))


def test_a_download_into_pinned_memory_is_there_after_waiting(cupy: Any, streams: Any) -> None:
    import cupyx

    x, out = ones(cupy, 2, 3), cupyx.empty_pinned((2, 3), np.float32)
    x.get(stream=streams[0], out=out, blocking=False)
    assert np.isnan(out).all()
    streams[1].synchronize()
    assert np.isnan(out).all()
    streams[0].synchronize()
    assert (out == 1).all()
    pageable = np.zeros((2, 3), np.float32)
    assert (x.get(stream=streams[0], out=pageable, blocking=False) == 1).all()


# ------------------------------------------------------------------ memory
def allocated() -> int:
    return device.memory.TOTAL - device.memory.memory_info()[0]


def test_a_pool_that_is_dropped_leaks_its_free_blocks(cupy: Any) -> None:
    for gives_back in (True, False):
        before = allocated()
        pool = cupy.cuda.MemoryPool()
        with cupy.cuda.using_allocator(pool.malloc):
            x = cupy.empty(1000, np.uint8)
            cupy.empty(3000, np.uint8)
        assert (pool.used_bytes(), pool.free_bytes(), pool.total_bytes()) == (1024, 3072, 4096)
        if gives_back:
            pool.free_all_blocks()
        del pool
        gc.collect()
        assert allocated() - before == (1024 if gives_back else 4096)
        del x
        assert allocated() - before == (0 if gives_back else 3072)


def test_two_hundred_captures_keep_memory_flat(cupy: Any) -> None:
    def growth(gives_back: bool) -> int:
        before = allocated()
        for _ in range(200):
            captured = Captured(cupy, double_of_next, ones(cupy, 1000))
            if gives_back:
                captured.pool.free_all_blocks()
            del captured
        gc.collect()
        return allocated() - before

    growth(True)
    assert growth(True) == 0
    assert growth(False) > 200 * 4000


def test_a_free_block_is_for_the_stream_that_asked_for_it(cupy: Any, streams: Any) -> None:
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        for stream in (*streams, *streams):
            with stream:
                assert np.isnan(cupy.empty(1000, np.float32).get()).all()  # fresh or not, nobody's numbers
    assert pool.n_free_blocks() == 3


def test_a_full_device_takes_free_blocks_back(cupy: Any) -> None:
    device.memory.card.total = allocated() + 4096
    assert cupy.cuda.Device().mem_info == cupy.cuda.runtime.memGetInfo() == (4096, device.memory.card.total)
    x = cupy.empty(3000, np.uint8)
    del x
    x = cupy.empty(4096, np.uint8)  # the pool's free block had to go
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(1, np.uint8)
    del x
    cupy.get_default_memory_pool().free_all_blocks()
    assert cupy.cuda.Device().mem_info[0] == 4096


def test_a_pool_over_another_allocator(cupy: Any) -> None:
    """Memory that somebody else refers to is not freed with the pool's blocks."""
    before, held = allocated(), []

    def allocate(size: int) -> Any:
        held.append(cupy.cuda.Memory(size))
        return cupy.cuda.MemoryPointer(held[-1], 0)

    pool = cupy.cuda.MemoryPool(allocate)
    with cupy.cuda.using_allocator(pool.malloc):
        cupy.empty(1000, np.uint8)
    pool.free_all_blocks()
    assert (pool.total_bytes(), allocated() - before) == (0, 1024)
    held.clear()
    assert allocated() == before


def test_the_allocator_is_each_threads_own(cupy: Any) -> None:
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        thread = threading.Thread(target=lambda: cupy.zeros(1000))
        thread.start()
        thread.join()
    assert pool.total_bytes() == 0
    with cupy.cuda.using_allocator(None):
        before = allocated()
        x = cupy.zeros(64)
        assert allocated() == before + 512
        del x
        assert allocated() == before


# ------------------------------------------------------------------ captures
def test_a_capture_computes_nothing_until_its_graph_runs_on_what_its_inputs_hold(cupy: Any) -> None:
    captured = Captured(cupy, lambda x: cupy.stack([x * 2, cupy.roll(x, 1)])[1:].sum(axis=0), ones(cupy, 3))
    for i in range(3):
        x = cupy.asarray(np.full(3, i, np.float32), blocking=True)
        assert captured(x).tolist() == [i] * 3
    x = ones(cupy, 5)
    captured = Captured(cupy, lambda y: cupy.add(x, y, out=x) + 1, x)
    assert np.isnan(captured.output.get()).all()
    assert x.get().tolist() == [1] * 5
    assert captured(x).tolist() == [3] * 5
    assert x.get().tolist() == [2] * 5


def test_what_a_capture_refuses(cupy: Any, streams: Any) -> None:
    import cupyx

    def foreign(x: Any) -> Any:
        with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
            return x + 1

    event = streams[0].record()
    refused: dict[str, list[Callable[[Any], Any]]] = {
        "capturing": [
            lambda x: x.get(),
            lambda x: x[0, 0].item(),
            lambda x: float(x.sum()),
            lambda x: int(x.sum()),
            lambda x: bool(x.any()),
            lambda _: cupy.cuda.get_current_stream().synchronize(),
            lambda _: cupy.cuda.Device().synchronize(),
            lambda _: cupy.cuda.get_current_stream().record().synchronize(),
            lambda _: cupy.asarray(np.ones(3)),
            lambda x: x.set(np.ones(x.shape, x.dtype)),
            lambda x: x.get(out=cupyx.empty_pinned(x.shape, x.dtype), blocking=False),
            lambda x: x[x > 0],
            lambda x: x.nonzero(),
            lambda x: cupy.median(x, axis=-1),
            lambda x: cupy.argpartition(x, 1, axis=-1),
            lambda x: x.sort(),
            lambda x: cupy.unique(x),
            lambda x: cupyx.scipy.ndimage.label(x > 0),
            lambda x: cupy.fft.rfft2(x),
            lambda x: RealPlan(1, x.shape, "R2C", x.dtype),
        ],
        "cuBLAS": [lambda x: x @ x, lambda x: cupy.einsum("ij,jk->ik", x, x)],
        "not of the pool that the capture began with": [foreign],
        "uncaptured work": [lambda _: cupy.cuda.get_current_stream().wait_event(event)],
        "sends their addresses": [lambda x: cupy.stack([x] * 9)],
    }
    for why, steps in refused.items():
        for step in steps:
            with pytest.raises(RuntimeError, match=why):
                Captured(cupy, step, ones(cupy, 3, 3))
            assert Captured(cupy, lambda x: x + 1, ones(cupy, 3))(ones(cupy, 3)).tolist() == [2] * 3
    assert activity["capture plans"] == 2


def test_allocations_of_a_capture_that_the_pool_cannot_serve_are_counted(cupy: Any) -> None:
    pool = cupy.cuda.MemoryPool()
    x = ones(cupy, 3)
    captured = Captured(cupy, double_of_next, x, pool=pool)
    assert activity["capture allocations"] == 2
    stream = captured.stream
    with stream, cupy.cuda.using_allocator(pool.malloc):
        double_of_next(x)  # the second time finds what the first has left
        stream.begin_capture()
        double_of_next(captured.inputs[0])
        stream.end_capture()
    assert activity["capture allocations"] == 2


def test_other_threads_go_on_during_a_capture(cupy: Any) -> None:
    values: list[float] = []

    def work() -> None:
        with cupy.cuda.Stream(non_blocking=True):
            values.append(float(cupy.asarray(np.ones(3)).sum()))

    def step(x: Any) -> Any:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return x + 1

    assert Captured(cupy, step, ones(cupy, 3))(ones(cupy, 3)).tolist() == [2] * 3
    assert values == [3]


def test_a_graph_must_not_use_what_is_gone(cupy: Any) -> None:
    """Memory that was given back, an array, a plan, and what CuPy's cache of plans has pushed out."""
    x = ones(cupy, 1, 4, 6)
    constants, plans = [ones(cupy, 1, 4, 6)], [RealPlan(1, (4, 6), "R2C", x.dtype)]
    spectrum = cupy.empty((1, 4, 4), np.complex64)
    pool = cupy.cuda.MemoryPool()
    cupy.fft.rfft2(x).get()
    cases: list[tuple[Any, Any]] = [
        (double_of_next, pool.free_all_blocks),
        (lambda y: y + constants[0], constants.clear),
        (lambda y: plans[0].fft(y, spectrum, -1), plans.clear),
        (lambda y: cupy.fft.rfft2(y), lambda: [cupy.fft.rfft(ones(cupy, 5 + n)) for n in range(16)]),
    ]
    for function, lose in cases:
        captured = Captured(cupy, function, x, pool=pool if function is double_of_next else None)
        captured.graph.launch(captured.stream)
        captured.stream.synchronize()
        lose()
        with pytest.raises(RuntimeError, match=FREED):
            captured.graph.launch(captured.stream)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("joined", [False, True])
def test_a_fork_must_be_joined(cupy: Any, streams: Any, joined: bool, late: bool) -> None:
    """By an event after the last of its work."""
    branch = streams[0]

    def step(x: Any) -> Any:
        origin = cupy.cuda.get_current_stream()
        branch.wait_event(origin.record())
        with branch:
            assert branch.is_capturing()
            y = x * 2
            event = branch.record()
            if late:
                y = y * 2
        if joined:
            origin.wait_event(event)
        return y

    if joined and not late:
        assert Captured(cupy, step, ones(cupy, 3))(ones(cupy, 3)).tolist() == [2] * 3
    else:
        with pytest.raises(RuntimeError, match="unjoined work"):
            Captured(cupy, step, ones(cupy, 3))
    assert not branch.is_capturing()
    with branch:
        ones(cupy, 3) + 1


def test_a_capture_has_an_order_of_its_own(cupy: Any, streams: Any) -> None:
    """Whatever was waited for before."""
    x = ones(cupy, 3)

    def step(y: Any) -> Any:
        origin = cupy.cuda.get_current_stream()
        streams[0].wait_event(origin.record())
        with streams[0]:
            x[...] = y
        with unordered():
            x + 1
        origin.wait_event(streams[0].record())
        return x + 1

    assert Captured(cupy, step, x)(x).tolist() == [2] * 3


def test_an_event_of_a_capture_that_has_ended_is_refused(cupy: Any, streams: Any) -> None:
    captured = Captured(cupy, lambda _: cupy.cuda.get_current_stream().record(), ones(cupy, 3))
    with pytest.raises(RuntimeError, match="a capture that has ended"):
        streams[0].wait_event(captured.output)


def test_a_launch_has_its_place_in_the_order(cupy: Any, streams: Any) -> None:
    first, second, _ = streams
    captured = Captured(cupy, lambda x: x + 1, ones(cupy, 3))
    with first:
        captured.inputs[0][...] = ones(cupy, 3)
    with second:
        with unordered():
            captured.graph.launch()
        second.wait_event(first.record())
        captured.graph.launch()
    with first:
        with unordered():
            captured.output.copy()
        with unordered():
            captured.graph.launch()


# ------------------------------------------------------------------ arrays
def test_dtypes_that_a_gpu_lacks(cupy: Any) -> None:
    x = cupy.asarray(np.arange(3, dtype=">f4"))
    assert x.dtype == np.float32
    assert x.dtype.isnative
    assert x.get().tolist() == [0, 1, 2]
    for dtype in (">f4", ">u2", np.longdouble, np.clongdouble):
        for make, first in ((x.astype, ()), (cupy.empty, (3,)), (cupy.zeros, (3,)), (cupy.asarray, ([1],))):
            with pytest.raises(ValueError, match="Unsupported dtype"):
                make(*first, dtype)
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.asarray(np.ones(3, np.longdouble))


def test_numpy_arrays_are_no_operands(cupy: Any) -> None:
    x = ones(cupy, 3)
    for refused in (lambda: x + np.ones(3), lambda: np.asarray(x), lambda: np.mean(x), lambda: cupy.sqrt(np.ones(3))):
        with pytest.raises(TypeError):
            refused()
    assert (np.float32(2) * x).get().tolist() == [2] * 3


def test_numbers_of_derived_types_are_no_operands(cupy: Any) -> None:
    class Level(float):
        pass

    with pytest.raises(TypeError, match="Unsupported type"):
        ones(cupy, 3) / Level(2)


def test_views_share_memory_and_launch_nothing(cupy: Any) -> None:
    x = ones(cupy, 2, 6)
    counts.clear()
    view = x[1:].reshape(3, 2).T[None]
    element = x[1, 5]
    assert cupy.broadcast_to(x, (3, 2, 6)).shape == (3, 2, 6)
    assert view.base is x
    assert element.base is x
    assert cupy.ascontiguousarray(x) is x
    assert cupy.asarray(x, dtype=np.float32) is x
    assert element.data.ptr - x.data.ptr == 4 * 11
    before = activity["launches"]
    x[...] = 7
    assert (before, activity["launches"]) == (0, 1)
    assert float(element) == 7


def test_what_is_counted(cupy: Any) -> None:
    x = ones(cupy, 8)
    counts.clear()
    y = x + 1
    y *= 2
    y.copy()
    assert dict(counts) == {"allocations": 2}
    assert (counts["launches"], activity["calls"]) == (3, 3)
    cupy.asarray(np.ones(3))
    cupy.RawModule(code=SOURCE).get_function("double_it")((1,), (32,), (x, y))
    assert (counts["uploads"], counts["bytes"], counts["waits"]) == (1, 64, 0)
    captured = Captured(cupy, double_of_next, x)
    captured.graph.launch()
    assert (activity["launches"], activity["graph launches"]) == (4, 1)


def test_what_sorts_or_counts_waits(cupy: Any) -> None:
    x = ones(cupy, 8)
    names = ("median", "sort", "argsort", "flatnonzero", "argwhere", "unique")
    functions: list[Callable[[Any], Any]] = [getattr(cupy, name) for name in names]
    functions += [lambda x: cupy.percentile(x, 50), lambda x: cupy.argpartition(x, 3)]
    for function in (*functions, lambda x: x[x > 0], lambda x: x.sort()):
        counts.clear()
        function(x)
        assert counts["waits"] == 1


def test_a_lost_device_answers_everything_with_its_error(cupy: Any) -> None:
    x = ones(cupy, 8)
    device.lost = "unspecified launch failure"
    for call in (lambda: x + 1, x.get, cupy.cuda.Device, lambda: cupy.asarray(np.ones(3)), lambda: cupy.empty(3),
                 cupy.cuda.get_current_stream().synchronize, cupy.cuda.runtime.memGetInfo):  # fmt: skip
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="unspecified launch failure") as caught:
            call()
        assert caught.value.status == 719


# ------------------------------------------------------------------ transforms
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 5, 6), (3, 7), (3, 8)])
def test_plans_there_and_back(cupy: Any, shape: tuple[int, ...], real: type) -> None:
    values: Any = np.random.default_rng(0).random(shape).astype(real)
    axes = tuple(range(1, len(shape)))
    x = cupy.asarray(values)
    spectrum = cupy.empty((*shape[:-1], shape[-1] // 2 + 1), np.result_type(real, np.complex64))
    forward, back = (RealPlan(shape[0], shape[1:], kind, x.dtype) for kind in ("R2C", "C2R"))
    assert forward.work_area.mem.size == back.work_area.mem.size == values.nbytes
    forward.fft(x, spectrum, -1)
    np.testing.assert_allclose(spectrum.get(), np.fft.rfftn(values, axes=axes), rtol=1e-5, atol=1e-5)
    back.fft(spectrum, x, 1)
    np.testing.assert_allclose(x.get() / np.prod(shape[1:]), values, rtol=1e-5)
    assert np.isnan(spectrum.get()).all()


def test_a_transform_of_misaligned_numbers_is_refused(cupy: Any) -> None:
    plan = RealPlan(2, (4, 4), "R2C", np.dtype("f4"))
    spectrum = cupy.empty((2, 4, 3), np.complex64)
    aligned, misaligned = (ones(cupy, 40)[i : i + 32].reshape(2, 4, 4) for i in (2, 1))
    plan.fft(aligned, spectrum, -1)
    with pytest.raises(cupy.cuda.cufft.CuFFTError, match="aligned"):
        plan.fft(misaligned, spectrum, -1)


def test_a_plan_is_for_one_stream_at_a_time(cupy: Any, streams: Any) -> None:
    x = ones(cupy, 1, 4, 4)
    plan = RealPlan(1, (4, 4), "R2C", x.dtype)
    for stream in streams:
        with stream, contextlib.nullcontext() if stream is streams[0] else unordered():
            plan.fft(x, cupy.empty((1, 4, 3), np.complex64), -1)


def test_cupys_cache_of_plans(cupy: Any) -> None:
    """Sixteen, of which the one goes that was not used for the longest time."""
    for _ in range(2):
        for n in range(2, 18):
            cupy.fft.rfft(ones(cupy, n))
    assert counts["plans"] == 16
    for n, plans in ((18, 17), (3, 17), (2, 18)):
        cupy.fft.rfft(ones(cupy, n))
        assert counts["plans"] == plans


def test_many_arrays_are_joined_by_addresses_that_the_host_sends(cupy: Any) -> None:
    arrays = [cupy.ones(3) for _ in range(9)]
    before = device.counts["uploads"]
    cupy.stack(arrays[:8])
    assert device.counts["uploads"] == before
    cupy.concatenate(arrays)
    assert device.counts["uploads"] == before + 1
