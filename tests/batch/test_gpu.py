"""The GPU executor on a device of NumPy arrays: which images are grouped, when, and what happens if one fails.

At the end `CudaDevice`, on the stand-in for CuPy and on a GPU.
"""

import functools
import gc
import itertools
import math
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from laws import assert_same
from test_iterator import (
    JOIN_TIMEOUT,
    QUICK,
    Source,
    any_size,
    check_equal,
    check_same_error,
    endless,
    picture,
    quick,
    slow,
    wait_until_full,
)
from test_iterator import no_thread_is_left as no_thread_is_left
from test_iterator import sizes_by_brightness as sizes_by_brightness

import gpudeblur as gd
from gpudeblur.batch import cuda_device, gpu, iterator
from gpudeblur.batch.cuda_device import acquire_cuda_device
from gpudeblur.batch.memory import bytes_per_image
from gpudeblur.blind import options
from gpudeblur.blind.deblur import BlindResult
from gpudeblur.metrics import kernel_similarity
from gpudeblur.numerics.arrays import to_host


class NumpyDevice:
    """A device on the host that computes at most `fits` pictures at a time, and notes what it is asked."""

    def __init__(self) -> None:
        self.fits, self.free = math.inf, 1 << 40
        self.uploads: list[int] = []
        self.computed: list[tuple[int, ...]] = []
        self.downloads = 0
        self.release, self.close = Mock(), Mock()
        self.prepare: Callable[[Any], None] = lambda picture: None
        self.changed = threading.Condition()
        self.before_compute: Callable[[], None] = lambda: None
        self.free_bytes = lambda: self.free

    def note(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, what: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(what, JOIN_TIMEOUT)

    def upload(self, pictures: list[Any]) -> np.ndarray:
        self.uploads.append(len(pictures))
        self.note()
        return np.stack(pictures)

    def compute(self, stack: np.ndarray, deblur: Callable[[Any], BlindResult]) -> BlindResult:
        self.before_compute()
        if len(stack) > self.fits:
            raise MemoryError(f"no room for {len(stack)}")
        result = deblur(stack)
        self.computed.append(stack.shape)
        self.note()
        return result

    def download(self, computed: BlindResult, picture: Any) -> BlindResult:
        self.downloads += 1
        self.note()
        return computed

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> NumpyDevice:
    """Stands for the GPU; a slow reader is waited for as long as it takes, so that groups do not depend on time."""
    numpy_device = NumpyDevice()
    monkeypatch.setattr(options, "choose_module", lambda image, device: object())
    monkeypatch.setattr(iterator, "acquire_cuda_device", lambda device_id, inputs_ready: numpy_device)
    monkeypatch.setattr(iterator, "GpuExecutor", functools.partial(gpu.GpuExecutor, timeout=1e6))
    return numpy_device


def on_device(pictures: Any, **more: Any) -> gd.BatchIterator:
    return quick(pictures, device="cuda", **more)


def alone(u: Any, **more: Any) -> BlindResult:
    return gd.deblur(u, 5, **{"options": QUICK, "final": None} | more)


# ---- what is computed together


@pytest.mark.parametrize("final", [None, *(pytest.param(f, marks=slow) for f in ("hyper-laplacian", "sparse"))])
def test_groups_equal_a_loop(device: NumpyDevice, final: str | None) -> None:
    pictures = [picture(i, (24, 30 + 2 * (i % 2)), ("float32", "uint8")[i % 4 // 2]) for i in range(10)]
    for count, r in enumerate(on_device(pictures, batch_size=3, final=final)):
        assert r.index == count
        check_equal(r, alone(pictures[r.index], final=final))
    assert count == 9
    assert sum(shape[0] for shape in device.computed) == 10
    assert max(shape[0] for shape in device.computed) == 3  # across those of another shape


@slow
def test_groups_with_a_mask_equal_a_loop(device: NumpyDevice) -> None:
    mask = np.random.default_rng(0).random((24, 32)) > 0.1
    pictures = [np.where(mask, np.random.default_rng(i).random((24, 32)), np.nan) for i in range(5)]
    for choice in (mask, "nan"):
        for result, u in zip(on_device(pictures, mask=choice), pictures, strict=True):
            assert result.error is None
            assert_same(result.kernel, alone(u, mask=choice).kernel)
    each: list[Any] = [np.random.default_rng(i).random((24, 32)) > 0.05 for i in range(5)]
    each = [mask & choice for choice in each]
    each[1], pictures[1] = None, picture(1)
    each[3] = "nan"
    device.computed.clear()
    for result, u, choice in zip(on_device(pictures, mask=each, batch_size=3), pictures, each, strict=True):
        check_equal(result, alone(u, mask=choice))
    assert sorted(shape[0] for shape in device.computed) == [1, 1, 3]
    wrong = [*each[:2], mask[1:], [1], mask & False]
    results = [*on_device(pictures, mask=wrong)]
    messages = [
        "",
        "",
        "mask must be like image",
        "mask must be a NumPy or CuPy array, got list",
        "mask must be True at",
    ]
    for result, message in zip(results, messages, strict=True):
        assert message in str(result.error)
        assert (result.error is None) == (not message)
    pictures[1] = np.where(mask, picture(1), np.nan)
    results = [*on_device([np.ma.masked_invalid(pictures[0]), pictures[1]])]
    assert "image must be a plain array, got a masked one" in str(results[0].error)
    assert "mask='nan' leaves such pixels out" in str(results[1].error)


def test_a_rare_shape_does_not_block_the_others(device: NumpyDevice) -> None:
    """It is the first result to be taken: when no more can be read, it goes alone."""
    pictures = itertools.chain([picture(0, (26, 32))], (picture(i) for i in itertools.count()))
    with on_device(pictures, batch_size=2) as results:
        for r in itertools.islice(results, 20):
            assert r.error is None
    assert device.computed[:3].count((2, 24, 32)) >= 2
    assert (1, 26, 32) in device.computed


@slow
def test_in_colour(device: NumpyDevice) -> None:
    for axis, shape in ((-1, (20, 24, 3)), (0, (3, 20, 24)), (1, (20, 3, 24))):
        pictures = [picture(i, shape) for i in range(2)]
        for r in on_device(pictures, channel_axis=axis, final="hyper-laplacian", batch_size=2):
            check_equal(r, alone(pictures[r.index], channel_axis=axis, final="hyper-laplacian"))
    assert [shape[0] for shape in device.computed] == [2] * 3


@any_size
def test_pictures_without_a_kernel_size_are_computed_one_by_one(device: NumpyDevice, monkeypatch: Any) -> None:
    results = list(on_device(sizes_by_brightness(monkeypatch), kernel_size=None, batch_size=3))
    assert device.computed == [(1, 24, 32)] * 3
    assert [np.asarray(r.kernel).shape for r in results] == [(5, 5), (9, 9), (5, 5)]


def test_a_stack_as_a_picture_stays_by_itself(device: NumpyDevice) -> None:
    stack = np.stack([picture(i) for i in range(3)])
    results = list(on_device([stack, picture(3), stack], batch_size=8))
    assert sorted(device.computed) == [(1, 3, 24, 32), (1, 3, 24, 32), (1, 24, 32)]
    assert_same(results[2].kernel, alone(stack).kernel)
    assert_same(results[2].info["confidence"], alone(stack).info["confidence"])


def test_the_free_memory_decides_how_many(device: NumpyDevice) -> None:
    need = bytes_per_image((24, 32), 5, final=None, options=QUICK, backend="cupy") + 3 * 8 * 24 * 32
    device.free = math.ceil(5.5 * need / gpu.MEMORY_FRACTION)
    assert len(list(on_device(picture(i) for i in range(20)))) == 20
    assert [shape[0] for shape in device.computed] == [5] * 4
    device.free = 1
    device.computed.clear()
    assert len(list(on_device(picture(i) for i in range(3)))) == 3
    assert [shape[0] for shape in device.computed] == [1] * 3


def test_without_a_batch_size_groups_are_bounded_in_pixels(device: NumpyDevice, monkeypatch: Any) -> None:
    """At most four groups are in flight, and nothing is kept for those that are taken."""
    monkeypatch.setattr(gpu, "GROUP_PIXELS", 5 * 24 * 32)
    monkeypatch.setattr(gpu, "MIN_SIZE", 1)
    read: list[weakref.ref] = []

    def pictures() -> Iterator[np.ndarray]:
        for i in range(50):
            u = picture(i)
            read.append(weakref.ref(u))
            yield u

    with on_device(pictures()) as results:
        for r in results:
            assert len(read) - r.index <= 4 * 5 + 1
            assert sum(reference() is not None for reference in read) <= 4 * 5 + 2
            if r.index == 15:
                wait_until_full(results)
                assert len(read) == 16 + 20
    assert [shape[0] for shape in device.computed] == [5] * 10
    gc.collect()
    assert not any(reference() is not None for reference in read)


def test_what_is_no_picture_counts_too(device: NumpyDevice) -> None:
    """An endless supply of nothing is read within bounds."""
    source = Source(None for _ in itertools.count())
    with on_device(source) as results:
        next(results)
        wait_until_full(results)
        assert source.read == 4 * 256 + 1


def test_a_slow_reader_is_not_waited_for(device: NumpyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterator, "GpuExecutor", functools.partial(gpu.GpuExecutor, timeout=0.01))
    back = threading.Event()

    def pictures() -> Iterator[np.ndarray]:
        yield picture(0)
        assert back.wait(JOIN_TIMEOUT)
        yield picture(1)

    for r in on_device(pictures(), batch_size=8):
        assert r.error is None
        back.set()
    assert [shape[0] for shape in device.computed] == [1, 1]


# ---- all at the same time


def test_the_next_group_is_uploaded_while_one_is_computed(device: NumpyDevice) -> None:
    device.before_compute = lambda: device.wait_for(lambda: len(device.uploads) >= min(4, len(device.computed) + 2))
    assert len(list(on_device((picture(i) for i in range(8)), batch_size=2))) == 8
    assert device.uploads == [2] * 4


def test_a_group_is_brought_back_while_the_next_is_computed(device: NumpyDevice, monkeypatch: Any) -> None:
    begun: list[int] = []

    def begin() -> None:
        begun.append(0)
        device.note()

    download = device.download

    def slow(*arguments: Any) -> BlindResult:
        device.wait_for(lambda: len(begun) >= min(4, device.downloads + 2))
        return download(*arguments)

    device.before_compute = begin
    monkeypatch.setattr(device, "download", slow)
    assert len(list(on_device((picture(i) for i in range(8)), batch_size=2))) == 8


# ---- what may go wrong


def test_a_bad_picture_does_not_spoil_its_group(device: NumpyDevice) -> None:
    pictures: list[Any] = [picture(i) for i in range(12)]
    pictures[2] = pictures[2] * np.nan
    pictures[3] = pictures[3][0]
    pictures[5] = None
    pictures[7] = picture(7, (4, 40))
    for r in on_device(pictures, batch_size=4):
        if r.index in (2, 3, 5, 7):
            check_same_error(r, lambda i=r.index: alone(pictures[i]))
        else:
            check_equal(r, alone(pictures[r.index]))
    assert [shape[0] for shape in device.computed] == [4, 4]


def test_an_error_of_one_picture_in_a_group_is_its_own(device: NumpyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    real = iterator.deblur_masked

    def deblur(image: np.ndarray, *rest: Any, **more: Any) -> Any:
        if (image == 7).any():
            raise ArithmeticError("a seven")
        return real(image, *rest, **more)

    monkeypatch.setattr(iterator, "deblur_masked", deblur)
    pictures = [picture(i) for i in range(8)]
    pictures[5][3, 3] = 7
    results = list(on_device(pictures, batch_size=4))
    assert [str(r.error) for r in results if r.error] == ["a seven"]
    assert results[5].error is not None
    assert sorted(shape[0] for shape in device.computed) == [1, 1, 1, 4]


@slow
def test_out_of_memory_halves_the_group_and_says_so_once(device: NumpyDevice) -> None:
    device.fits = 3
    pictures = [picture(i) for i in range(16)]
    message = r"^out of memory with 8 pictures of 24 x 32 at a time, going on with 4; batch_size=4 begins with that$"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        results = list(on_device(pictures, batch_size=8))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for r in results:
        check_equal(r, alone(pictures[r.index]))
    assert [r.index for r in results] == list(range(16))
    assert [shape[0] for shape in device.computed] == [2] * 8
    assert device.release.call_count >= 2
    assert device.uploads[-1] == 2  # what comes later is not even sent in larger groups


@slow
def test_other_shapes_shrink_in_proportion(device: NumpyDevice) -> None:
    device.fits = 2
    small, large = [picture(i) for i in range(4)], [picture(i, (48, 64)) for i in range(8)]
    with pytest.warns(RuntimeWarning, match="^out of memory with 4 pictures of 24 x 32 "):
        assert len(list(on_device([*small, *large], batch_size=4))) == 12
    assert {shape for shape in device.computed if shape[1] == 48} == {(1, 48, 64)}


def test_a_picture_that_does_not_fit_alone_has_its_own_error(device: NumpyDevice) -> None:
    device.fits = 0
    tries = []
    device.before_compute = lambda: tries.append(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        results = list(on_device([picture(i) for i in range(4)], batch_size=4))
    assert [type(r.error) for r in results] == [MemoryError] * 4
    assert [str(r.error) for r in results] == ["no room for 1"] * 4
    assert len(tries) == 1 + 1 + 4 * 2  # four, two, then each alone, and again with everything given back


def test_an_upload_that_does_not_fit_is_tried_again(device: NumpyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = device.upload

    def full(pictures: list[Any]) -> np.ndarray:
        if threading.current_thread().name == "gpudeblur-upload":
            raise MemoryError("not while another computes")
        return upload(pictures)

    monkeypatch.setattr(device, "upload", full)
    assert all(r.error is None for r in on_device([picture(i) for i in range(6)], batch_size=2))


def test_a_device_that_fails_fails_for_those_pictures(device: NumpyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    download = device.download

    def lost(computed: BlindResult, u: np.ndarray) -> BlindResult:
        if device.downloads == 1:
            device.downloads += 1
            raise RuntimeError("the cable")
        return download(computed, u)

    monkeypatch.setattr(device, "download", lost)
    results = list(on_device([picture(i) for i in range(6)], batch_size=2))
    assert [str(r.error or "") for r in results] == ["", "", "the cable", "the cable", "", ""]


def test_the_consumer_may_leave(device: NumpyDevice) -> None:
    """While one group is computed, one waits and one is on its way back."""
    source = Source(itertools.chain([None], endless((64, 64))))
    device.before_compute = lambda: device.wait_for(lambda: len(device.uploads) >= 2)
    with on_device(source, batch_size=2, options=gd.TwoStepOptions(iterations=40), kernel_size=25) as results:
        assert next(results).error is not None
        device.wait_for(lambda: len(device.uploads) >= 2)
    assert source.closed_by is not None
    device.close.assert_called_once_with()
    assert device.downloads == 0


def test_the_reader_may_raise(device: NumpyDevice) -> None:
    def pictures() -> Iterator[np.ndarray]:
        yield from (picture(i) for i in range(5))
        raise OSError("the disk is gone")

    indices: list[int] = []
    with pytest.raises(OSError, match=r"^the disk is gone$"):
        indices.extend(r.index for r in on_device(pictures(), batch_size=2))
    assert indices == [0, 1, 2, 3, 4]


def test_the_info_of_a_stack_is_split() -> None:
    info: Any = {"energy": np.array([1.0, 2.0]), "residual": np.array([3.0, 4.0]), "backend": "cupy"}
    info |= {"seconds": 6.0, "seconds_kernel": 2.0}
    assert gpu.split_info(info, 1, 2) == {
        "energy": 2.0, "residual": 4.0, "seconds": 3.0, "seconds_kernel": 1.0, "backend": "cupy",
    }  # fmt: skip
    assert type(gpu.split_info(info, 1, 2)["residual"]) is float


# ---- CudaDevice on the stand-in for CuPy, which checks that every use of an array is ordered by an event


@pytest.fixture
def fake(cpu_kernel: Any) -> Iterator[Any]:
    from cuda_on_cpu import device

    with device.installed(cpu_kernel) as cupy:
        yield cupy


def double(stack: Any) -> BlindResult:
    return BlindResult(2 * stack, stack[:, :3, :3].copy(), {})


@pytest.mark.parametrize("dtype", ["float32", "uint8", ">f4"])
def test_host_pictures_go_there_and_back(fake: Any, dtype: str) -> None:
    cuda = acquire_cuda_device(None, None)
    assert all(stream.non_blocking for stream in (cuda._upload_stream, cuda._compute_stream, cuda._download_stream))
    pictures = [picture(i, dtype="uint8").astype(dtype) for i in range(3)]
    stack = cuda.upload(pictures)
    assert isinstance(stack.array, fake.ndarray)
    assert stack.array.dtype.isnative
    result = cuda.download(cuda.compute(stack, double), pictures[0])
    for i, u in enumerate(pictures):
        assert type(result.image[i]) is type(result.kernel[i]) is np.ndarray
        assert result.image[i].dtype == u.dtype
        assert_same(result.image[i], 2 * u)
        assert_same(result.kernel[i], u[:3, :3])
        assert result.image[i].base is None  # nobody keeps the group's memory
    computed = cuda.compute(cuda.upload(pictures), lambda stack: BlindResult(None, stack[:, :3, :3], {}))
    alone = cuda.download(computed, pictures[0])
    assert alone.image is None
    assert_same(alone.kernel[1], pictures[1][:3, :3])


def test_device_pictures_stay_there(fake: Any) -> None:
    cuda = acquire_cuda_device(None, None)
    with fake.cuda.Stream(non_blocking=True) as stream:
        pictures = [fake.asarray(picture(i)) for i in range(3)]
        cuda.inputs_ready = stream.record()
    cuda.prepare(pictures[0])
    assert cuda.inputs_ready is None  # once is enough
    result = cuda.download(cuda.compute(cuda.upload(pictures), double), pictures[0])
    for i in range(3):
        assert isinstance(result.image[i], fake.ndarray)
        assert_same(result.image[i].get(), 2 * picture(i))
        assert result.image[i].base is None


def test_every_kind_of_no_memory_is_known(fake: Any) -> None:
    cuda = acquire_cuda_device(None, None)
    kinds = (fake.cuda.cufft.CuFFTError, fake.cuda.runtime.CUDARuntimeError, fake.cuda.driver.CUDADriverError)
    for kind in kinds:
        assert cuda.is_out_of_memory(kind(2))
        assert not cuda.is_out_of_memory(kind(700))
        error = RuntimeError("GPU 0 is out of memory")
        error.__cause__ = kind(2)
        assert cuda.is_out_of_memory(error)
    assert cuda.is_out_of_memory(MemoryError())
    assert not cuda.is_out_of_memory(ValueError())


def test_a_batch_takes_what_another_has_left(fake: Any) -> None:
    """Its streams, plans and graphs; two at a time have two, and no more than that are kept."""
    first = acquire_cuda_device(None, None)
    first.close()
    assert acquire_cuda_device(0, None) is first
    second, third = acquire_cuda_device(0, None), acquire_cuda_device(0, None)
    assert len({first, second, third}) == 3
    for device in (first, second, third):
        device.close()
    assert cuda_device._idle_devices == [first, second]
    for device in cuda_device._idle_devices:
        device._state.plans["plan"] = None
    third.release()  # where memory is short
    assert not any(device._state.plans for device in cuda_device._idle_devices)


def test_a_device_in_work_is_not_left_to_another_batch(fake: Any) -> None:
    """Its thread has not ended in time."""
    cuda = acquire_cuda_device(None, None)
    stack = cuda.upload([picture(0)])
    cuda.compute(stack, lambda array: cuda.close() or double(array))  # type: ignore[func-returns-value]
    assert not cuda_device._idle_devices


# ---- the real thing


@pytest.mark.gpu
@pytest.mark.parametrize("final", [None, "hyper-laplacian"])
def test_a_batch_on_a_gpu(cupy: Any, final: str | None) -> None:
    pictures = [picture(i, (64, 60 + 4 * (i % 3)), ("float32", "uint8")[i % 2]) for i in range(60)]
    before = {thread.name for thread in threading.enumerate()}
    for xp in (np, cupy):
        for count, r in enumerate(quick([xp.asarray(u) for u in pictures], device="cuda", final=final)):
            assert r.error is None
            assert r.index == count
            assert isinstance(r.kernel, xp.ndarray)
            single = gd.deblur(xp.asarray(pictures[count]), 5, device="cuda", options=QUICK, final=final)
            # Not the same bits: for other batches cuFFT takes other ways, and hard thresholds follow.
            assert kernel_similarity(to_host(r.kernel), to_host(single.kernel)) > 0.95
            assert r.info["backend"] == "cupy"
    assert {thread.name for thread in threading.enumerate()} == before


@pytest.mark.gpu
def test_a_full_gpu_halves_the_batch_and_gives_its_memory_back(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpudeblur.numerics import cuda_graphs
    from gpudeblur.numerics.device import clear

    monkeypatch.setattr(cuda_graphs, "GRAPH_PIXELS", 0)  # graphs have memory of their own
    pool = cupy.get_default_memory_pool()
    clear()
    pool.free_all_blocks()
    size = bytes_per_image((256, 256), 25, final=None, backend="cupy")
    used, limit = pool.used_bytes(), pool.get_limit()
    pool.set_limit(size=used + 12 * size)
    try:
        with pytest.warns(RuntimeWarning, match=r"^out of memory with 64 pictures of 256 x 256 at a time, going on "):
            results = list(quick((picture(i, (256, 256)) for i in range(80)), 25, device="cuda", batch_size=64))
    finally:
        pool.set_limit(size=limit)
    assert [r.error for r in results] == [None] * 80
    del results
    for device in cuda_device._idle_devices:  # keep what they made for the next batch
        device.release()
    gc.collect()
    assert pool.used_bytes() == used
