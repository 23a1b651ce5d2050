"""CUDA graphs, FFT plans and constants on the strict stand-in for a device: what is kept, shared, and given back."""

from __future__ import annotations

import gc
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.fft

pytest.importorskip("cupy", reason="gpudeblur.numerics.cuda.source needs it; no GPU is needed")
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

from cuda_on_cpu import device
from laws import assert_close

from gpudeblur.numerics.fourier import irfft, irfft2, rfft, rfft2

constants: Any
cuda_graphs: Any
numerics_device: Any


@pytest.fixture
def cupy(cpu_kernel: Any) -> Iterator[Any]:
    """The stand-in; the modules that hold CuPy are imported anew for each test."""
    global constants, numerics_device, cuda_graphs
    with device.installed(cpu_kernel) as cupy:
        from gpudeblur.numerics import constants, cuda_graphs
        from gpudeblur.numerics import device as numerics_device

        yield cupy


def silent(_: float) -> None:
    pass


def blur(u: Any, *, report: Callable[[float], None] = silent) -> tuple[Any, ...]:
    """Two transforms, temporaries, and a report: what a step does."""
    hat = rfft2(u)
    hat *= 0.5
    smooth = irfft2(hat, u.shape[-2:], overwrite=True) / (u.shape[-2] * u.shape[-1])
    report(0.5)
    return smooth + u * 0, smooth.sum()


def allocated() -> int:
    gc.collect()
    device.memory.collect()
    return device.memory.card.allocated


def spectra_of(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [np.random.default_rng(0).random(shape, np.float32) for shape in shapes]


# ------------------------------------------------------------------ graphs
def test_a_function_runs_then_is_captured_then_replayed(cupy: Any) -> None:
    device.counts.clear()
    fractions: list[float] = []
    for number in range(4):
        u = np.random.default_rng(number).random((2, 12, 10), np.float32)
        half, total = cuda_graphs.replay("key", blur, cupy.asarray(u), report=fractions.append)
        assert_close(half, u / 2, atol=2e-7)
        assert float(total) == pytest.approx(u.sum() / 2, rel=1e-5)
    assert device.counts["graph launches"] == 3
    assert device.counts["capture allocations"] == device.counts["capture plans"] == 0
    assert fractions == [0.5, 1.0, 1.0, 1.0]


def test_other_shapes_streams_and_keys_have_graphs_of_their_own(cupy: Any) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    for key, shape, on in (("a", (8, 8), None), ("b", (8, 8), None), ("a", (8, 6), None), ("a", (8, 8), stream)):
        for _ in range(2):
            with on or cupy.cuda.Stream.null:
                u = cupy.ones(shape, dtype=np.float32)
                assert float(cuda_graphs.replay(key, blur, u)[1]) == pytest.approx(u.size / 2)
    assert len(numerics_device.state().graphs) == 4
    assert device.counts["graph launches"] == 4
    assert len(numerics_device.state().contexts) == 2  # one for each stream


def test_cleared_graphs_give_all_memory_back(cupy: Any) -> None:
    u = cupy.ones((64, 64), dtype=np.float32)
    pool = cupy.get_default_memory_pool()
    before = None
    for _ in range(5):
        for number in range(3):
            for _ in range(3):
                cuda_graphs.replay(number, blur, u)
        numerics_device.clear()
        pool.free_all_blocks()
        before = allocated() if before is None else before
        assert allocated() == before


def test_graphs_share_their_memory(cupy: Any) -> None:
    """Ten graphs of one shape hold what one holds, but for their inputs and outputs."""
    u = cupy.ones((64, 64), dtype=np.float32)
    held = []
    for number in range(10):
        for _ in range(2):
            cuda_graphs.replay(number, blur, u)
        (context,) = numerics_device.state().contexts.values()
        held.append(context.size)
    assert len(set(held)) == 1


def test_a_thread_that_ends_gives_its_memory_back(cupy: Any) -> None:
    def work() -> None:
        with cupy.cuda.Stream(non_blocking=True) as stream:
            for _ in range(3):
                cuda_graphs.replay("key", blur, cupy.ones((64, 64), dtype=np.float32))
            stream.synchronize()

    pool = cupy.get_default_memory_pool()
    sizes = []
    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        gc.collect()
        pool.free_all_blocks()
        sizes.append(allocated())
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_plan_that_was_pushed_out_is_made_again_before_the_capture(cupy: Any, monkeypatch: Any) -> None:
    u = cupy.ones((8, 8), dtype=np.float32)
    cuda_graphs.replay("key", blur, u)
    numerics_device.state().plans.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert float(cuda_graphs.replay("key", blur, u)[1]) == pytest.approx(32)
    assert device.counts["capture plans"] == 0
    assert device.counts["graph launches"] == 2


def test_a_graph_keeps_its_plans_and_constants(cupy: Any) -> None:
    """Pushed out of the caches, they stay as long as a graph runs them; the stand-in would see them gone."""

    def function(u: Any, *, report: Any) -> tuple[Any, ...]:
        return irfft2(rfft2(u) * constants.on_device(np.full, 5, 2.0), (8, 8), overwrite=True), u

    u = cupy.ones((8, 8), dtype=np.float32)
    for _ in range(2):
        cuda_graphs.replay("key", function, u)
    numerics_device.state().plans.clear()
    constants.clear()
    gc.collect()
    assert float(cuda_graphs.replay("key", function, u)[0].sum()) == pytest.approx(2 * 64 * 64)


def test_what_waits_is_never_captured_which_is_said_once(cupy: Any) -> None:
    def function(u: Any, *, report: Any) -> tuple[Any, ...]:
        return (u * float(u.sum()),)

    u = cupy.ones((4, 4), dtype=np.float32)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(5):
            assert float(cuda_graphs.replay("key", function, u)[0][0, 0]) == 16
    assert [str(warning.message).partition(":")[0] for warning in said] == [
        "CUDA graph not captured, launching one by one instead"
    ]
    assert device.counts["graph launches"] == 0
    assert float(cuda_graphs.replay("other", blur, u)[1]) == pytest.approx(8)  # nothing is left of the failed capture


def test_a_large_stack_is_launched_one_by_one(cupy: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(cuda_graphs, "GRAPH_PIXELS", 15)
    fractions: list[float] = []
    for _ in range(3):
        cuda_graphs.replay("key", blur, cupy.ones((4, 4), dtype=np.float32), report=fractions.append)
    assert device.counts["graph launches"] == 0
    assert fractions == [0.5] * 3  # the function's own


def test_where_graphs_find_no_memory_the_function_runs_without(cupy: Any) -> None:
    """Two graphs fill the device; the third picture fits once they are gone."""
    u = cupy.ones((64, 64), dtype=np.float32)
    for _ in range(3):
        cuda_graphs.replay("first", blur, u)
    large = cupy.ones((256, 256), dtype=np.float32)
    device.memory.card.total = allocated() + 9 * large.nbytes

    def function(u: Any, *, report: Any) -> tuple[Any, ...]:
        copies = [u.copy() for _ in range(8)]
        return (copies[0] + copies[-1],)

    pool = cupy.get_default_memory_pool()
    for _ in range(3):
        (total,) = cuda_graphs.replay("second", function, large)
        assert float(total[0, 0]) == 2
        del total
        pool.free_all_blocks()
    (failures,) = numerics_device.state().failures.values()
    assert failures


def test_an_error_within_a_graph_leaves_nothing_behind(cupy: Any) -> None:
    u = cupy.ones((4, 4), dtype=np.float32)

    def function(u: Any, *, report: Any) -> tuple[Any, ...]:
        raise ValueError("no")

    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            cuda_graphs.replay("key", function, u)
        assert numerics_device.state().context is None
    for _ in range(3):
        assert float(cuda_graphs.replay("other", blur, u)[1]) == pytest.approx(8)


def test_branches_run_on_streams_of_their_own(cupy: Any, monkeypatch: Any) -> None:
    streams: list[int] = []

    def function(u: Any, *, report: Any) -> tuple[Any, ...]:
        twice = u * 2

        def branch(factor: int) -> Any:
            streams.append(cupy.cuda.get_current_stream().ptr)
            return irfft2(rfft2(twice), u.shape[-2:], overwrite=True) * factor

        parts = cuda_graphs.branches([lambda factor=factor: branch(factor) for factor in (1, 2, 3)])
        return (parts[0] + parts[1] + parts[2],)

    u = cupy.ones((4, 4), dtype=np.float32)
    for _ in range(4):
        assert float(cuda_graphs.replay("key", function, u)[0][0, 0]) == 16 * 2 * 6
    assert len(set(streams)) == 3
    assert device.counts["graph launches"] == 3
    streams.clear()
    monkeypatch.setattr(cuda_graphs, "BRANCH_PIXELS", 15)
    cuda_graphs.replay("large", function, u)
    cuda_graphs.branches([lambda: streams.append(cupy.cuda.get_current_stream().ptr)] * 2)  # out of a graph
    assert len(set(streams[:3])) == 1
    assert streams[3:] == [0, 0]


def test_a_branch_that_fails_is_joined(cupy: Any) -> None:
    def function(u: Any, *, report: Any) -> tuple[Any, ...]:
        def fail() -> Any:
            raise KeyError("branch")

        return tuple(cuda_graphs.branches([lambda: u + 1, fail]))

    u = cupy.ones((4, 4), dtype=np.float32)
    with pytest.raises(KeyError, match="branch"):
        cuda_graphs.replay("key", function, u)
    assert float(cuda_graphs.replay("other", blur, u)[1]) == pytest.approx(8)


def test_few_streams_are_remembered(cupy: Any, monkeypatch: Any) -> None:
    """With a context go its graphs, the plans of its streams, and its memory."""
    monkeypatch.setattr(cuda_graphs, "MAX_CONTEXTS", 2)
    sizes = []
    for _ in range(6):
        with cupy.cuda.Stream(non_blocking=True) as stream:
            for _ in range(3):
                cuda_graphs.replay("key", blur, cupy.ones((16, 16), dtype=np.float32))
            stream.synchronize()
        state = numerics_device.state()
        sizes.append((len(state.contexts), len(state.graphs), len(state.plans)))
    assert sizes[-1] == (2, 2, 4)


def test_all_is_given_back_at_exit(cupy: Any) -> None:
    for _ in range(2):
        cuda_graphs.replay("key", blur, cupy.ones((16, 16), dtype=np.float32))
    numerics_device._clear_at_exit()
    assert not numerics_device.state().graphs
    assert not numerics_device.state().plans
    device.lost = "CUDA is gone"
    numerics_device._clear_at_exit()  # says nothing


# ------------------------------------------------------------------ transforms
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1), (3, 1, 8), (3, 8, 1), (2, 1, 1), (131, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_shape_is_transformed(cupy: Any, shape: tuple[int, ...], dtype: str) -> None:
    """A row or a column too, for which CuPy refuses a plan, as it is in Fortran's order as well."""
    u = np.random.default_rng(0).random(shape).astype(dtype)
    hat = rfft2(cupy.asarray(u))
    rtol = 1e-5 if dtype == "float32" else 1e-12
    assert_close(hat, scipy.fft.rfft2(u), rtol=rtol, atol=rtol)
    again = irfft2(hat, (shape[-2], shape[-1])) / (shape[-1] * shape[-2])
    assert_close(again, u, rtol=rtol, atol=rtol)
    lines = rfft(cupy.asarray(u))
    assert_close(lines, scipy.fft.rfft(u), rtol=rtol, atol=rtol)
    assert_close(irfft(lines, shape[-1]), u, rtol=rtol, atol=rtol)


def test_a_view_at_an_odd_float_is_copied(cupy: Any) -> None:
    """cuFFT reads real numbers by pairs."""
    u = np.random.default_rng(0).random(1 + 6 * 8).astype(np.float32)
    view = cupy.asarray(u)[1:].reshape(6, 8)
    assert view.data.ptr % 8 == 4
    assert_close(rfft2(view), scipy.fft.rfft2(u[1:].reshape(6, 8)), rtol=1e-5, atol=1e-5)


def test_the_users_own_fft_cache_is_left_alone(cupy: Any) -> None:
    from gpudeblur.numerics.arrays import fft_module

    fft_module(cupy)
    cache = cupy.fft.config.get_plan_cache()
    assert (cache.get_size(), cache.get_memsize()) == (16, -1)


def test_the_driver_is_asked_once_how_much_memory_there_is(cupy: Any, monkeypatch: Any) -> None:
    asked = Mock(wraps=device.memory.memory_info)
    monkeypatch.setattr(device.memory, "memory_info", asked)
    for side in range(2, 12):
        rfft2(cupy.ones((side, side), dtype=np.float32))
    asked.assert_called_once()


# ------------------------------------------------------------------ constants
def table(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.float32)


def test_a_constant_is_sent_once_and_read_on_any_stream(cupy: Any) -> None:
    device.counts.clear()
    totals = []

    def work() -> None:
        with cupy.cuda.Stream(non_blocking=True):
            totals.append(float((constants.on_device(table, 5) * 2).sum()))

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert totals == [20.0] * 3
    assert device.counts["uploads"] == 1


def test_constants_are_bounded(cupy: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(constants, "MAX_CONSTANTS", 4)
    for size in range(1, 10):
        constants.on_device(table, size)
    assert len(constants._constants) == 4
    monkeypatch.setattr(constants, "MAX_CONSTANTS", 1000)
    monkeypatch.setattr(constants, "MEMORY_FRACTION", 1e-9)
    for size in range(1000, 1010):
        constants.on_device(table, size)
    assert len(constants._constants) == 2  # never the last two


def test_a_capture_finds_its_constants_ready(cupy: Any) -> None:
    constants.capture.uses = {}
    try:
        with pytest.raises(constants.NotReadyError, match=r"table\(7,\) is not on the device yet"):
            constants.on_device(table, 7)
        assert not constants.capture.uses
    finally:
        constants.capture.uses = None


def test_a_capture_that_another_thread_spoils_is_tried_again(cupy: Any, monkeypatch: Any) -> None:
    u, end, spoils = cupy.ones((4, 4), dtype=np.float32), cupy.cuda.Stream.end_capture, [2]

    def end_capture(stream: Any) -> Any:
        graph = end(stream)
        if spoils[0]:
            spoils[0] -= 1
            raise RuntimeError("operation failed due to a previous error during capture")
        return graph

    monkeypatch.setattr(cupy.cuda.Stream, "end_capture", end_capture)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            assert float(cuda_graphs.replay("key", blur, u)[1]) == pytest.approx(8)
    assert device.counts["graph launches"] == 2


def test_what_a_callback_keeps_is_not_of_the_graphs_memory(cupy: Any) -> None:
    """A graph would write over it at its next launch."""
    kept: list[Any] = []
    for _ in range(3):
        cuda_graphs.replay("first", blur, cupy.ones((8, 8), dtype=np.float32))
    cuda_graphs.replay(
        "second", blur, cupy.ones((8, 8), dtype=np.float32), report=lambda _: kept.append(cupy.ones((8, 8)))
    )
    assert kept[0].memory.pool_state is cupy.get_default_memory_pool().state
    for _ in range(3):
        cuda_graphs.replay("first", blur, cupy.zeros((8, 8), dtype=np.float32))
    assert float(kept[0].sum()) == 64


def test_where_memory_ends_what_idle_batches_keep_is_given_back(cupy: Any) -> None:
    state = numerics_device.State()
    numerics_device.use(state)
    for _ in range(2):
        cuda_graphs.replay("key", blur, cupy.ones((64, 64), dtype=np.float32))
    numerics_device.use(numerics_device.State())
    numerics_device.idle.append(state)
    large = cupy.ones((128, 128), dtype=np.float32)
    cupy.get_default_memory_pool().free_all_blocks()
    device.memory.card.total = allocated() + 2 * large.nbytes - 1

    def function(u: Any, *, report: Any) -> tuple[Any, ...]:
        return (u + 1,)

    assert float(cuda_graphs.replay("key", function, large)[0][0, 0]) == 2
    assert not state.graphs
    numerics_device.idle.clear()


def test_graphs_that_would_fill_the_device_are_given_up(cupy: Any, monkeypatch: Any) -> None:
    """Two that are too much together make room for each other some times, then one of them stays."""
    monkeypatch.setattr(cuda_graphs, "MEMORY_FRACTION", 1e-9)
    u = cupy.ones((16, 16), dtype=np.float32)
    for _ in range(20):
        for key in ("first", "second"):
            assert float(cuda_graphs.replay(key, blur, u)[1]) == pytest.approx(128)
    device.counts.clear()
    for _ in range(5):
        for key in ("first", "second"):
            cuda_graphs.replay(key, blur, u)
    assert device.counts["graph launches"] == 5
