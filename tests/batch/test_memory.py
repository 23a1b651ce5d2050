"""The memory model against the peak that is measured. If the inner loops change, so may its constants."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from laws import peak_on_numpy

import gpudeblur as gd
from gpudeblur import nonblind
from gpudeblur.batch.memory import bytes_per_image
from gpudeblur.nonblind.methods.sparse import sparse

# The peak of one pass through everything is that of many.
SHORT: dict[str, Any] = {
    "iterations": 1,
    "finest_iterations": 1,
    "kernel_iterations": 2,
    "beta_max": 0.1,
    "finest_beta_max": 0.1,
}
FINALS = [None, "hyper-laplacian", "sparse", "tv"]
SIZES = [((96, 112), 15), ((96, 112), 51), ((255, 255), 15), ((255, 255), 51), ((512, 400), 31), ((1024, 1024), 51)]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nonblind.METHODS, "sparse", functools.partial(sparse, iterations=2))


def peak_on_cupy(cupy: Any, work: Any) -> int:
    from gpudeblur.numerics import device

    work()
    pool = cupy.get_default_memory_pool()
    device.clear()
    pool.free_all_blocks()
    before = pool.used_bytes()
    work()
    return pool.total_bytes() - before  # the pool gives nothing back by itself


def picture(shape: tuple[int, int], channels: int) -> np.ndarray:
    sides = shape if channels == 1 else (*shape, channels)
    return np.random.default_rng(0).random(sides, dtype=np.float32)


@pytest.mark.parametrize("final", FINALS)
@pytest.mark.parametrize(("shape", "kernel_size"), SIZES)
def test_the_peak_on_numpy(shape: tuple[int, int], kernel_size: int, final: str | None) -> None:
    options, u = gd.TwoStepOptions(**SHORT), picture(shape, 1)
    measured = peak_on_numpy(lambda: gd.deblur(u, kernel_size, final=final, options=options))
    assert bytes_per_image(shape, kernel_size, final=final) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(("shape", "kernel_size"), [SIZES[0], SIZES[2], ((255, 255), 3)])
def test_one_start_and_one_scale(shape: tuple[int, int], kernel_size: int) -> None:
    """The kernels of several starts are not held; a start of one scale is at the finest."""
    options, u = gd.TwoStepOptions(**SHORT, starts=("wide",)), picture(shape, 1)
    measured = peak_on_numpy(lambda: gd.deblur(u, kernel_size, final=None, options=options))
    assert bytes_per_image(shape, kernel_size, final=None, options=options) == pytest.approx(measured, rel=0.2)


@pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch the border:RuntimeWarning")
@pytest.mark.parametrize("shape", [(96, 112), (255, 255), (512, 400)])
def test_without_a_kernel_size(shape: tuple[int, int]) -> None:
    options, u = gd.TwoStepOptions(**SHORT), picture(shape, 1)
    measured = peak_on_numpy(lambda: gd.deblur(u, None, final=None, options=options))
    assert bytes_per_image(shape, None, final=None) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("final", FINALS)
@pytest.mark.parametrize(("channels", "dtype"), [(3, "float32"), (4, "float32"), (1, "float64"), (3, "float64")])
def test_channels_and_precision(channels: int, dtype: str, final: str | None) -> None:
    shape, options = (200, 230), gd.TwoStepOptions(**SHORT, dtype=dtype)
    u, axis = picture(shape, channels), None if channels == 1 else -1
    measured = peak_on_numpy(lambda: gd.deblur(u, (21, 31), final=final, options=options, channel_axis=axis))
    model = bytes_per_image(shape, (21, 31), channels=channels, final=final, options=options)
    assert model == pytest.approx(measured, rel=0.2)


@pytest.mark.gpu
@pytest.mark.parametrize("final", FINALS)
@pytest.mark.parametrize(("shape", "kernel_size"), [((96, 112), 21), ((255, 255), 25), ((512, 512), 51)])
def test_the_peak_on_a_gpu(cupy: Any, shape: tuple[int, int], kernel_size: int, final: str | None) -> None:
    """Of a stack too large for CUDA graphs, which have memory of their own."""
    count = (1 << 24) // (shape[0] * shape[1])
    options = gd.TwoStepOptions(**SHORT)
    stack = cupy.random.default_rng(0).random((count, *shape), dtype=cupy.float32)
    measured = peak_on_cupy(cupy, lambda: gd.deblur(stack, kernel_size, final=final, options=options)) / count
    model = bytes_per_image(shape, kernel_size, final=final, backend="cupy")
    assert model == pytest.approx(measured, rel=0.2)


def test_what_takes_more() -> None:
    base: dict[str, Any] = {"shape": (255, 255), "kernel_size": 25}
    least = bytes_per_image(**base)
    for more in ({"shape": (255, 300)}, {"kernel_size": 51}, {"channels": 3}, {"backend": "cupy"},
                 {"options": gd.TwoStepOptions(dtype="float64")}):  # fmt: skip
        assert bytes_per_image(**base | more) > least
    assert bytes_per_image(**base, final=None) < least
    assert bytes_per_image(**base, final=None) < bytes_per_image(**base, final=None, channels=3)
