"""Many pictures: each as if alone, in order, within bounds; and every way in which a batch may end early."""

from __future__ import annotations

import functools
import gc
import itertools
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laws import assert_same

import gpudeblur as gd
from gpudeblur import BatchResult, Progress, TwoStepOptions
from gpudeblur.batch import cpu, iterator
from gpudeblur.blind import parts as blind_parts
from gpudeblur.blind.racing import Rival

# Two milliseconds a picture: no test here is about quality.
QUICK = TwoStepOptions(
    iterations=1, kernel_iterations=2, refine=False, beta_max=1.0, smooth_weight=0, scale_ratio=0.5, starts=("wide",),
    finest_iterations=1,
)  # fmt: skip
slow = pytest.mark.slow
ROOT = Path(__file__).parents[2]
JOIN_TIMEOUT = 60  # seconds, until a hang is a failure


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    if set(threading.enumerate()) != before:
        gc.collect()
    assert set(threading.enumerate()) == before


def picture(seed: int, shape: tuple[int, ...] = (24, 32), dtype: str = "float32") -> np.ndarray:
    values = np.random.default_rng(seed).random(shape)
    if np.dtype(dtype).kind == "u":
        values *= np.iinfo(dtype).max
    return values.astype(dtype)


def quick(pictures: Any, kernel_size: Any = 5, **more: Any) -> gd.BatchIterator:
    return gd.deblur_batch(pictures, kernel_size, **{"options": QUICK, "final": None} | more)


def check_equal(result: BatchResult, alone: gd.BlindResult) -> None:
    assert result.error is None
    assert_same(result.kernel, alone.kernel)
    assert (result.image is None) == (alone.image is None)
    if result.image is not None and alone.image is not None:
        assert result.image.dtype == alone.image.dtype
        assert_same(result.image, alone.image)
    assert result.info.keys() == alone.info.keys()
    info: dict[str, Any] = dict(alone.info)
    assert all(value == info[name] for name, value in result.info.items() if not name.startswith("seconds"))


def check_same_error(result: BatchResult, work: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        work()
    assert (type(result.error), str(result.error)) == (caught.type, str(caught.value))
    assert (result.image, result.kernel, result.info) == (None, None, {})


class Source:
    """An iterator of pictures that notes what was read and whether it was closed."""

    def __init__(self, pictures: Any) -> None:
        self.pictures = iter(pictures)
        self.read = 0
        self.closed_by: threading.Thread | None = None

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        picture = next(self.pictures)
        self.read += 1
        return picture

    def close(self) -> None:
        self.closed_by = threading.current_thread()


def wait_until_full(results: gd.BatchIterator) -> None:
    """Until nothing more is read before a result is taken."""
    pipeline = results._pipeline
    with pipeline.changed:
        assert pipeline.changed.wait_for(lambda: pipeline.full, JOIN_TIMEOUT)


def endless(shape: tuple[int, int] = (24, 32)) -> Iterator[np.ndarray]:
    return (picture(i % 7, shape) for i in itertools.count())


# ---- results


@pytest.mark.parametrize(
    ("final", "workers"),
    [(None, 3), *(pytest.param(*case, marks=slow) for case in (("hyper-laplacian", 1), ("sparse", None)))],
)
def test_a_batch_equals_a_loop(final: str | None, workers: int | None) -> None:
    pictures = [picture(i, (24, 32 + i % 3), ("float32", "float64", "uint8", "uint16")[i % 4]) for i in range(8)]
    results = list(quick(pictures, final=final, workers=workers, gamma=1.5))
    assert [r.index for r in results] == list(range(8))
    for r, u in zip(results, pictures, strict=True):
        check_equal(r, gd.deblur(u, 5, final=final, gamma=1.5, options=QUICK))


@slow
def test_stacks_lists_and_generators_are_the_same() -> None:
    stack = np.stack([picture(i) for i in range(3)])
    expected = [gd.deblur(u, 5, final=None, options=QUICK) for u in stack]
    for pictures in (stack, list(stack), tuple(stack), (u for u in stack), map(np.asarray, stack)):
        results = list(quick(pictures))
        assert len(results) == 3
        for r, alone in zip(results, expected, strict=True):
            check_equal(r, alone)
    assert list(quick([])) == []


@slow
def test_the_defaults_are_those_of_deblur() -> None:
    u = picture(0, (26, 26))
    (r,) = gd.deblur_batch([u], 5)
    check_equal(r, gd.deblur(u, 5))
    assert r.image is not None


def test_other_devices_say_so() -> None:
    (r,) = quick([picture(0)], device="cpu")
    assert r.info["backend"] == "numpy"
    (r,) = quick([picture(0)], device="auto")
    assert r.info["backend"] in ("numpy", "cupy")


def test_what_is_wrong_with_a_picture_is_its_own_error() -> None:
    u = picture(0)
    bad = (
        np.where(u > 0.9, np.nan, u),
        u[0],
        u[None, None, None],
        u.tolist(),
        None,
        u[:0],
        u + 1j,
        u[:4],
        u * np.float64(1e300),
    )
    pictures: list[Any] = [given for i, wrong in enumerate(bad) for given in (wrong, picture(i))]
    results = list(quick(pictures))
    assert len(results) == len(pictures)
    for r, given in zip(results, pictures, strict=True):
        alone = functools.partial(gd.deblur, given, 5, final=None, options=QUICK)
        if r.index % 2 == 1:
            check_equal(r, alone())
        else:
            check_same_error(r, alone)


def test_an_error_does_not_hold_the_arrays_of_its_run() -> None:
    u = picture(0)
    u[0, 0] = np.nan
    there = weakref.ref(u)
    (r,) = quick([u])
    assert r.error is not None
    del u
    gc.collect()
    assert there() is None


# ---- arguments that are wrong for all pictures


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pictures": "photo.png"}, TypeError, "pictures must be a stack or an iterable of ... pictures, got str; put"),
        ({"pictures": 5}, TypeError, "pictures must be a stack or an iterable of ... pictures, got int; put a single"),
        ({"pictures": picture(0)}, ValueError, "pictures must have at least 3 axes as a stack, (n, H, W), got 2 ("),
        ({"pictures": picture(0, (24, 32, 3)), "channel_axis": -1}, ValueError, "pictures must have at least 4 axes as "
         "a stack, (n, H, W, C), got 3 (shape (24, 32, 3)); put a single picture into a list"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0; leave it out to fill the free memory"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer, got 2.0 (float); round it"),
        ({"workers": -1}, ValueError, "workers must be at least 1, got -1; leave it out for one per CPU"),
        ({"workers": True}, TypeError, "workers must be an integer, got True (bool)"),
        ({"callback": 3}, TypeError, "callback must be callable, got int; it is called with a Progress"),
    ],
)  # fmt: skip
def test_wrong_for_all_pictures_is_said_at_the_call(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """What is refused as `deblur` refuses it is in blind/test_options.py."""
    source = Source([])
    defaults: dict[str, Any] = {"pictures": source, "kernel_size": 5}
    with pytest.raises(error, match="^" + re.escape(message).replace(r"\.\.\.", ".*")):
        gd.deblur_batch(**defaults | arguments)
    assert source.closed_by is None


# ---- bounds


def test_nothing_is_read_before_the_first_result_is_asked_for() -> None:
    source = Source(endless())
    with quick(source) as results:
        assert source.read == 0
        assert threading.active_count() == 1
        next(results)
        assert source.read > 0
    quick(source).close()
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=slow)])
def test_the_reader_is_never_far_ahead(workers: int) -> None:
    """At most two stacks a worker are read and not taken; and as many are, while nobody takes any."""
    taken, ahead = 0, []

    def read() -> Iterator[np.ndarray]:
        for i in range(16):
            ahead.append(i + 1 - taken)
            yield picture(i)

    with quick(read(), workers=workers, batch_size=1) as results:
        for r in results:
            assert r.index == taken
            if taken == 6:
                wait_until_full(results)
                assert ahead[-1] == 2 * workers + 1  # the 7th is out of the iterator, but not counted yet
            taken += 1
    # `taken` lags behind by the result that the loop's body holds.
    assert max(ahead) == 2 * workers + 1
    assert taken == 16


def test_few_pictures_have_few_threads() -> None:
    names: set[str] = set()

    def read() -> Iterator[np.ndarray]:
        yield picture(0)
        names.update(thread.name for thread in threading.enumerate())

    assert len(list(quick(read(), workers=50))) == 1
    assert {name for name in names if "worker" in name} == {"gpudeblur-worker-1"}


@slow
def test_memory_is_flat() -> None:
    tracemalloc.start()
    pictures: list[weakref.ref] = []
    allocated = []

    def read() -> Iterator[np.ndarray]:
        for i in range(101):
            u = picture(i)
            pictures.append(weakref.ref(u))
            yield u

    with quick(read(), workers=2, batch_size=1) as results:
        for r in results:
            alive = sum(ref() is not None for ref in pictures)
            assert alive <= 2 * 2 + 2, r.index  # in flight, and two in the reader
            if r.index in (25, 100):
                gc.collect()
                allocated.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert allocated[1] < allocated[0] + 10 * 24 * 32 * 4


# ---- progress


def test_progress_within_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first result is waited for, it grows from 0 to the pictures of the stack."""
    monkeypatch.setattr(iterator, "REPORT_SECONDS", 0.0)
    reports: list[Progress] = []
    list(quick(np.stack([picture(i) for i in range(4)]), workers=1, callback=reports.append))
    ahead = [p.ahead for p in reports if p.done == 0]
    assert len(ahead) > 2
    assert ahead == sorted(ahead)
    assert 0 < ahead[1] < 4
    assert all(p.done + p.ahead <= 4 for p in reports)
    assert (reports[-1].done, reports[-1].ahead) == (4, 0)


def test_progress_counts_a_result_when_the_next_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterator, "REPORT_SECONDS", np.inf)
    reports: list[Progress] = []
    pictures = [picture(0), None, picture(2)]
    for r in quick(pictures, callback=reports.append):
        assert len(reports) == r.index
    assert [(p.done, p.failed, p.total) for p in reports] == [(1, 0, 3), (2, 1, 3), (3, 1, 3)]
    for p in reports:
        assert p.per_second == pytest.approx(p.done / p.seconds)
        assert p.remaining_seconds == pytest.approx((3 - p.done) / p.per_second)
    assert reports[0].seconds < reports[2].seconds
    reports.clear()
    list(quick(iter(pictures), callback=reports.append))
    assert [(p.done, p.total, p.remaining_seconds) for p in reports] == [(i, None, None) for i in (1, 2, 3)]


def test_a_callback_that_returns_true_or_raises_ends_the_batch() -> None:
    def raises(progress: Progress) -> None:
        if progress.done == 3:
            raise LookupError("mine")

    stops = r"^stopped by the callback after 3 pictures$"
    for callback, message in ((lambda progress: progress.done == 3, stops), (raises, "^mine$")):
        source, got = Source(endless()), list[int]()
        with pytest.raises((gd.Stopped, LookupError), match=message):
            got.extend(r.index for r in quick(source, callback=callback))
        assert got == [0, 1, 2]
        assert source.closed_by is not None
    with pytest.raises(gd.Stopped, match=r"^stopped by the callback after 1 of 5 pictures$"):
        list(quick([picture(i) for i in range(5)], callback=lambda _: True))


def test_a_callback_that_returns_something_else_does_not() -> None:
    for value in (None, False, 0, 1, "go on"):
        assert len(list(quick([picture(0)] * 2, callback=lambda _, v=value: v))) == 2


# ---- ways to end early


def test_what_the_reader_raises_comes_after_earlier_results() -> None:
    def read() -> Iterator[np.ndarray]:
        yield from (picture(i) for i in range(4))
        raise OSError("the disk is gone")

    class Broken:
        def __iter__(self) -> Iterator[np.ndarray]:
            raise OSError("no such camera")

    class Jammed(Source):
        def close(self) -> None:
            raise OSError("the shutter is stuck")

    for pictures, before, message in (
        (read(), 4, "^the disk is gone$"), (Broken(), 0, "^no such camera$"),
        (Jammed([picture(0)]), 1, "^the shutter is stuck$"),
    ):  # fmt: skip
        got: list[int] = []
        with pytest.raises(OSError, match=message):
            got.extend(r.index for r in quick(pictures))
        assert got == list(range(before))


@pytest.mark.parametrize("end", ["close", *(pytest.param(x, marks=slow) for x in ("cycle", "with", "last", "error"))])
def test_the_consumer_may_leave(end: str) -> None:
    """The pictures in work take seconds: they are not waited for. The reader is closed, in its own thread."""
    source = Source(endless((256, 256)))
    results = gd.deblur_batch(source, 25, workers=3, options=TwoStepOptions(iterations=100), final=None)
    first = picture(0)
    source.pictures = itertools.chain([None, first], source.pictures)
    assert next(results).error is not None
    with (pipeline := results._pipeline).changed:
        assert pipeline.changed.wait_for(
            lambda: len(pipeline.threads) == 4, JOIN_TIMEOUT
        )  # the reader and three in work
    start = time.monotonic()
    if end == "close":
        results.close()
    elif end == "with":
        with results:
            pass
    elif end == "error":
        with pytest.raises(KeyError), results:
            raise KeyError
    elif end == "cycle":
        cycle: list[Any] = [results]
        cycle.append(cycle)
        del cycle
    del results  # all that "last" is
    gc.collect()
    assert time.monotonic() - start < JOIN_TIMEOUT
    assert source.closed_by is not None
    assert source.closed_by.name == "gpudeblur-reader"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpudeblur")]


@pytest.mark.parametrize("closer", ["another thread", "the reader"])
def test_closing_elsewhere_ends_the_loop(closer: str) -> None:
    """As a button to cancel does, or the pictures' own generator."""
    taken: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        yield picture(0)
        if closer == "the reader":
            results.close()
        time.sleep(0.2)
        yield from endless()

    def loop() -> None:
        taken.extend(result.index for result in results)

    results: gd.BatchIterator = quick(pictures(), workers=1)
    thread = threading.Thread(target=loop)
    thread.start()
    if closer != "the reader":
        while results._pipeline.read_count < 1:
            time.sleep(0.01)
        results.close()
    thread.join(JOIN_TIMEOUT)
    assert not thread.is_alive()
    assert len(taken) <= 1
    assert list(results) == []
    for thread in results._pipeline.threads:  # the reader cannot wait for itself
        thread.join(JOIN_TIMEOUT)


def test_one_thread_at_a_time_takes_results() -> None:
    can_go_on = threading.Event()

    def pictures() -> Iterator[np.ndarray]:
        can_go_on.wait(JOIN_TIMEOUT)
        yield picture(0)

    results, taken = quick(pictures()), list[int]()
    thread = threading.Thread(target=lambda: taken.extend(result.index for result in results))
    thread.start()
    while not results._waiting.locked():
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="another thread or its own callback waits for one; take all results in one"):
        next(results)
    can_go_on.set()
    thread.join(JOIN_TIMEOUT)
    assert taken == [0]  # the first thread is not disturbed


def test_a_callback_that_asks_for_a_result_says_so() -> None:
    def callback(_: Progress) -> None:
        next(results)

    results: gd.BatchIterator = quick([picture(0), picture(1)], callback=callback)
    next(results)
    with pytest.raises(RuntimeError, match="its own callback waits"):
        next(results)


@pytest.mark.parametrize(("name", "taken"), [("reader", []), ("worker-1", []), ("worker-2", list(range(40)))])
def test_where_no_more_threads_start(monkeypatch: pytest.MonkeyPatch, name: str, taken: list[int]) -> None:
    """The batch goes on with the workers there are; without one it ends."""
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == f"gpudeblur-{name}":
            raise RuntimeError("can't start new thread")  # what CPython raises
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    results, indices = quick([picture(i) for i in range(40)], workers=3, batch_size=1), list[int]()
    if taken:
        with pytest.warns(RuntimeWarning, match="starts no more threads, going on with 1 of 3 workers"):
            indices.extend(result.index for result in results)
    else:
        with pytest.raises(RuntimeError, match=r"needs another thread, but the system starts none \(can't start new"):
            indices.extend(result.index for result in results)
    assert indices == taken


def test_the_length_is_the_number_of_pictures() -> None:
    results = quick([picture(0), picture(1)])
    assert len(results) == 2
    next(results)
    assert len(results) == 2
    assert len(list(results)) == 1
    unknown = quick(iter([picture(0)]))
    assert unknown
    with pytest.raises(TypeError, match="the number of pictures is not known before the end"):
        len(unknown)
    assert len(list(unknown)) == 1


def test_a_bug_in_a_thread_of_ours_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, job: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(cpu.CpuExecutor, "_deblur", broken)
    with pytest.raises(AssertionError, match=r"^a bug$"):
        next(quick(endless()))


@slow
def test_many_batches_at_once() -> None:
    streams = [quick((picture(i) for i in range(20)), workers=2) for _ in range(4)]
    for together in zip(*streams, strict=True):
        assert len({r.index for r in together}) == 1
        for r in together[1:]:
            assert_same(r.kernel, together[0].kernel)


SCRIPT = """
import itertools, signal, sys, threading
import numpy as np
import gpudeblur as gd
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
u = np.random.default_rng(0).random((200, 200), dtype=np.float32)
pictures = itertools.chain([None, None], itertools.repeat(u))
results = gd.deblur_batch(pictures, 25, workers=3, final=None)
assert next(results).error is not None
"""
INTERRUPTED = """
try:
    with results:
        print("ready", flush=True)
        for r in results: pass  # wherever it comes, in the library or in the loop
except KeyboardInterrupt:
    print([thread.name for thread in threading.enumerate() if thread.name.startswith("gpudeblur")], flush=True)
"""


def python(code: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-c", SCRIPT + code]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_control_c_ends_a_batch_at_once() -> None:
    with python(INTERRUPTED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "[]\n"
        assert time.monotonic() - start < JOIN_TIMEOUT
        _, errors = process.communicate(timeout=JOIN_TIMEOUT)
    assert (process.returncode, errors) == (0, "")


@slow
@pytest.mark.parametrize(
    ("code", "returncode", "end"),
    [("", 0, ""), ("sys.exit(0)", 0, ""), ("for r in results: raise LookupError('mine')", 1, "LookupError: mine\n")],
)
def test_a_batch_does_not_hold_the_interpreter(code: str, returncode: int, end: str) -> None:
    with python(code) as process:
        _, errors = process.communicate(timeout=JOIN_TIMEOUT)
    assert process.returncode == returncode, errors
    assert errors.endswith(end)
    assert bool(errors) == bool(end)


# ---- stacks on the CPU


def stacked(monkeypatch: pytest.MonkeyPatch, pictures: Any, fail: Any = None, **more: Any) -> tuple[list, list]:
    """(results, shapes of the calls) of one worker that begins when all pictures are there.

    What it begins with is a picture that is like no other.
    """
    calls, all_there, deblur = [], threading.Event(), cpu.deblur

    def spy(picture: Any, *args: Any, **kwargs: Any) -> gd.BlindResult:
        assert all_there.wait(JOIN_TIMEOUT)
        calls.append(getattr(picture, "shape", None))
        if fail is not None:
            fail(picture)
        return deblur(picture, *args, **kwargs)

    def read() -> Iterator[Any]:
        first = picture(0)[:16]
        yield first if more.get("channel_axis") is None else np.stack([first] * 3, axis=more["channel_axis"])
        yield from pictures
        all_there.set()

    monkeypatch.setattr(cpu, "deblur", spy)
    results = list(quick(read(), workers=1, **more))
    monkeypatch.undo()
    assert results[0].error is None
    return results[1:], calls[1:]


@pytest.mark.parametrize("final", [None, pytest.param("sparse", marks=slow), "hyper-laplacian"])
def test_equal_pictures_are_stacked_and_come_out_as_alone(monkeypatch: Any, final: str | None) -> None:
    pictures = [picture(i) for i in range(5)]
    results, calls = stacked(monkeypatch, pictures, final=final)
    assert calls == [(5, 24, 32)]
    for u, r in zip(pictures, results, strict=True):
        check_equal(r, gd.deblur(u, 5, options=QUICK, final=final))
        assert r.kernel.base is None


@pytest.mark.parametrize("axis", [0, *(pytest.param(axis, marks=slow) for axis in (1, -1))])
def test_the_channel_axis_is_counted_in_one_picture(monkeypatch: Any, axis: int) -> None:
    """Also if the pictures are a stack."""
    pictures = np.stack([np.moveaxis(picture(i, (3, 24, 32)), 0, axis) for i in range(4)])
    results, calls = stacked(monkeypatch, pictures, channel_axis=axis, final="hyper-laplacian")
    assert [len(shape) for shape in calls] == [4]
    for u, r in zip(pictures, results, strict=True):
        check_equal(r, gd.deblur(u, 5, options=QUICK, channel_axis=axis, final="hyper-laplacian"))


def sizes_by_brightness(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Three pictures whose kernels are found at sizes 5, 9 and 5."""

    def sizes(stack: np.ndarray, *_: Any) -> tuple[np.ndarray, Rival]:
        box = np.full((len(stack), 3, 3), 1 / 9, dtype=np.float32)
        return np.where(stack.mean(axis=(-2, -1)) > 0.5, 9, 5), Rival(box, 1.0)

    monkeypatch.setattr(blind_parts, "estimate_sizes", sizes)
    return [(picture(i) + i % 2) / 2 for i in range(3)]


any_size = pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch the border:RuntimeWarning")


@any_size
@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=slow), 3])
def test_pictures_without_a_kernel_size_are_taken_one_by_one(monkeypatch: Any, batch_size: int | None) -> None:
    """In a stack, the kernels would be padded to the size of the largest."""
    pictures = sizes_by_brightness(monkeypatch)
    results = list(quick(pictures, None, batch_size=batch_size, workers=1, final="hyper-laplacian"))
    assert [np.asarray(r.kernel).shape for r in results] == [(5, 5), (9, 9), (5, 5)]
    for u, r in zip(pictures, results, strict=True):
        check_equal(r, gd.deblur(u, None, options=QUICK, final="hyper-laplacian"))


def test_what_is_not_alike_is_not_stacked(monkeypatch: Any) -> None:
    pictures = [picture(0), picture(1), picture(2).astype(np.float64), picture(3)[:20], picture(4)[:20], None]
    results, calls = stacked(monkeypatch, pictures)
    assert calls == [(2, 24, 32), (24, 32), (2, 20, 32), None]
    assert [r.error is None for r in results] == [True] * 5 + [False]


def test_what_fails_in_a_stack_is_computed_one_by_one(monkeypatch: Any) -> None:
    def fail(u: Any) -> None:
        if u is pictures[2]:
            raise MemoryError("no room")

    pictures = [picture(i) for i in range(5)]
    pictures[3][2, 4] = np.nan
    results, calls = stacked(monkeypatch, pictures, fail)
    assert calls == [(5, 24, 32), *[(24, 32)] * 5]
    assert repr(results[2].error) == "MemoryError('no room')"
    check_same_error(results[3], lambda: gd.deblur(pictures[3], 5))
    for i in (0, 1, 4):
        check_equal(results[i], gd.deblur(pictures[i], 5, options=QUICK, final=None))


def test_batch_size_and_pixels_bound_a_stack(monkeypatch: Any) -> None:
    _, calls = stacked(monkeypatch, [picture(i) for i in range(4)], batch_size=3)
    assert calls == [(3, 24, 32), (24, 32)]
    monkeypatch.setattr(cpu, "STACK_PIXELS", 24 * 32 * 4)
    _, calls = stacked(monkeypatch, [picture(i) for i in range(5)])
    assert calls == [(4, 24, 32), (24, 32)]


@pytest.mark.parametrize(("timeout", "calls"), [(60.0, [(2, 24, 32), (24, 32)]), (0.001, [(24, 32)] * 3)])
def test_a_stack_of_a_batch_size_waits_for_its_images(
    monkeypatch: pytest.MonkeyPatch, timeout: float, calls: list[tuple[int, ...]]
) -> None:
    """While more are read, but not longer than the timeout."""
    shapes, deblur = [], cpu.deblur

    def spy(picture: Any, *args: Any, **kwargs: Any) -> gd.BlindResult:
        shapes.append(picture.shape)
        return deblur(picture, *args, **kwargs)

    def read() -> Iterator[np.ndarray]:
        for i in range(3):
            yield picture(i)
            time.sleep(0.1)

    monkeypatch.setattr(cpu, "deblur", spy)
    monkeypatch.setattr(cpu, "BATCH_TIMEOUT", timeout)
    assert all(result.error is None for result in quick(read(), workers=1, batch_size=2))
    assert shapes == calls


# ---- masks


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 3)])
def test_a_mask_for_all_pictures(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random((24, 32)) > 0.1
    pictures = [np.where(mask if len(shape) == 2 else mask[..., None], picture(i, shape), np.nan) for i in range(5)]
    axis = None if len(shape) == 2 else -1
    for choice in (mask, "nan"):
        for result, image in zip(quick(pictures, mask=choice, final="tv", channel_axis=axis), pictures, strict=True):
            check_equal(result, gd.deblur(image, 5, mask=choice, final="tv", options=QUICK, channel_axis=axis))


def test_masked_arrays_are_not_stacked_without_their_masks() -> None:
    pictures = [np.ma.masked_greater(picture(i), 0.9) for i in range(4)]
    for result, image in zip(quick(pictures, final="tv"), pictures, strict=True):
        assert isinstance(result.image, np.ma.MaskedArray)
        assert_same(result.image.mask, image.mask)
        check_equal(result, gd.deblur(image, 5, final="tv", options=QUICK))


def test_masked_pixels_do_not_decide_the_white_level() -> None:
    mask = np.ones((24, 32), bool)
    mask[3:9, 4:9] = False
    pictures = [np.where(mask, picture(i), 1000) for i in range(3)]
    assert [result.info["white"] for result in quick(pictures, mask=mask)] == [1, 1, 1]


def test_a_mask_that_does_not_fit_a_picture_is_its_error() -> None:
    mask = np.ones((24, 32), bool)
    mask[0, 0] = False
    results = [*quick([picture(0), picture(1, (24, 30)), picture(2)], mask=mask)]
    assert [result.error is None for result in results] == [True, False, True]
    assert "mask must be like image, shape (24, 30), got shape (24, 32)" in str(results[1].error)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ("inf", ValueError, "mask must be one of 'nan', got 'inf'"),
        (
            True,
            TypeError,
            "mask must be a bool array, 'nan', or an iterable of one mask a picture, got True (bool); "
            "None is a picture without a mask",
        ),
        (np.ones((24, 32)), TypeError, "mask must have dtype bool, True where pictures are valid, got float64"),
        (
            np.ones((3, 24, 32), bool),
            ValueError,
            "mask must be one for all pictures, or one for each of the 1, got 3 "
            "masks; None is a picture without a mask",
        ),
        (
            np.ones((1, 24, 32, 3), bool),
            ValueError,
            "mask must be one for all pictures, (H, W), or one a picture, (n, "
            "H, W), got shape (1, 24, 32, 3); it has no channels",
        ),
        (np.ma.ones((24, 32), bool), TypeError, "mask must be a plain array, got a masked one"),
        ([], ValueError, "mask must be one for all pictures, or one for each of the 1, got 0 masks"),
    ],
)
def test_masks_that_no_picture_takes(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        quick([picture(0)], mask=mask)


# ---- a mask for each picture


def masks_of(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).random((24, 32)) > 0.1 for i in range(count)]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 3)])
def test_a_mask_for_each_picture(shape: tuple[int, ...], workers: int) -> None:
    """Among them "nan", and pictures without a mask; as a list, and from a generator."""
    masks: list[Any] = masks_of(8)
    pictures, axis = [], None if len(shape) == 2 else -1
    for i, mask in enumerate(masks):
        pictures.append(np.where(mask if axis is None else mask[..., None], picture(i, shape), np.nan))
    masks[2] = "nan"
    masks[5], pictures[5] = None, picture(5, shape)
    options: dict[str, Any] = {"final": "tv", "channel_axis": axis}
    expected = [gd.deblur(u, 5, mask=m, options=QUICK, **options) for u, m in zip(pictures, masks, strict=True)]
    for given in (masks, iter(masks), tuple(masks)):
        for result, alone in zip(quick(pictures, mask=given, workers=workers, **options), expected, strict=True):
            check_equal(result, alone)


def test_a_stack_of_masks_for_a_stack_of_pictures() -> None:
    stack, masks = np.stack([picture(i) for i in range(4)]), np.stack(masks_of(4))
    for result, image, mask in zip(quick(stack, mask=masks), stack, masks, strict=True):
        check_equal(result, gd.deblur(image, 5, mask=mask, options=QUICK, final=None))


def test_pictures_with_masks_are_stacked(monkeypatch: Any) -> None:
    """With those like them: a mask of valid pixels is not the same as none."""
    masks: list[Any] = [*masks_of(3), None, None, "nan"]
    pictures = [picture(i) for i in range(6)]
    results, calls = stacked(monkeypatch, pictures, mask=[None, *masks])
    assert calls == [(3, 24, 32), (2, 24, 32), (24, 32)]
    for result, image, mask in zip(results, pictures, masks, strict=True):
        check_equal(result, gd.deblur(image, 5, mask=mask, options=QUICK, final=None))


def test_a_wrong_mask_fails_its_picture_only() -> None:
    good = masks_of(1)[0]
    bad = [good[1:], good * 1, ~good | True, ~(good | True), "inf", [True], True, np.stack([good, good]), good.T, good]
    pictures: list[Any] = [picture(i) for i in range(10)]
    pictures[2] = np.where(good, pictures[2], np.nan)
    pictures[9] = np.ma.masked_greater(pictures[9], 0.9)
    masks = [m for wrong in bad for m in (good, wrong)]
    results = [*quick([u for wrong in pictures for u in (picture(99), wrong)], mask=masks, workers=2)]
    messages = [
        "mask must be like image, shape (24, 32), got shape (23, 32)",
        "mask must have dtype bool, True where image is valid, got int64",
        "image must be finite, got nan at index",
        "mask must be True at some pixel of each image, got none",
        "mask must be a bool array, 'nan' or None, got 'inf'",
        "mask must be a NumPy or CuPy array, got list",
        "mask must be a NumPy or CuPy array, got bool",
        "mask must be like image, shape (24, 32), got shape (2, 24, 32)",
        "mask must be like image, shape (24, 32), got shape (32, 24)",
        "mask must be left out for a masked array, got both",
    ]
    assert [result.error for result in results[::2]] == [None] * 10
    for result, message in zip(results[1::2], messages, strict=True):
        assert message in str(result.error)


def test_one_mask_of_three_axes_for_each_of_three_pictures_fits_none() -> None:
    """In a stack they would."""
    mask = np.stack(masks_of(3))
    results = [*quick([picture(i) for i in range(3)], mask=[mask] * 3)]
    assert all("got shape (3, 24, 32)" in str(result.error) for result in results)


@pytest.mark.parametrize(("count", "message"), [
    (2, "mask must be one for each picture, got 2 masks for more pictures; None is a picture without a mask"),
    (4, "mask must be one for each picture, got more than 3 masks for 3 pictures"),
])  # fmt: skip
def test_too_few_or_too_many_masks_raise_after_the_results(count: int, message: str) -> None:
    pictures = [picture(i) for i in range(3)]
    with pytest.raises(ValueError, match=f"^mask must be one for all pictures, or one for each of the 3, got {count}"):
        quick(pictures, mask=masks_of(count))
    done = []
    with pytest.raises(ValueError, match="^" + re.escape(message)):  # noqa: PT012
        for result in quick(iter(pictures), mask=iter(masks_of(count))):
            done.append(result.error)
    assert done == [None] * min(count, 3)


def test_what_the_masks_raise_comes_after_the_results() -> None:
    closed = []

    def masks() -> Iterator[Any]:
        try:
            yield None
            raise OSError("no such mask")
        finally:
            closed.append(True)

    done = []
    with pytest.raises(OSError, match="no such mask"):  # noqa: PT012
        for result in quick([picture(0), picture(1)], mask=masks()):
            done.append(result.error)
    assert (done, closed) == ([None], [True])


def test_the_masks_are_closed_with_the_batch() -> None:
    closed = []

    def masks() -> Iterator[None]:
        try:
            while True:
                yield None
        finally:
            closed.append(True)

    with quick((picture(i) for i in itertools.count()), mask=masks()) as results:
        next(results)
    assert closed == [True]
