"""The memory model against the peak that is measured. If the inner loops change, so may its constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import peak_on_numpy

import gpudeblur as gd
from gpudeblur.batch.memory import bytes_per_image

# The peak of one pass through everything is that of many.
SHORT: dict[str, Any] = {
    "iterations": 1,
    "finest_iterations": 1,
    "kernel_iterations": 2,
    "beta_max": 0.1,
    "finest_beta_max": 0.1,
}
FINALS = [None, "hyper-laplacian", "sparse", "tv"]
slow = pytest.mark.slow


def check(shape: tuple[int, int], kernel_size: Any, channels: int = 1, final: str | None = None, **more: Any) -> None:
    """The model is within 20 % of the peak."""
    options = gd.TwoStepOptions(**SHORT, **more)
    sides, axis = (shape, None) if channels == 1 else ((*shape, channels), -1)
    u = np.random.default_rng(0).random(sides, dtype=np.float32)
    measured = peak_on_numpy(lambda: gd.deblur(u, kernel_size, channel_axis=axis, final=final, options=options))
    model = bytes_per_image(shape, kernel_size, channels=channels, final=final, options=options)
    assert model == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    ("shape", "kernel_size", "final"),
    [
        pytest.param((96, 112), 15, None, marks=slow),
        pytest.param((96, 112), 51, "sparse", marks=slow),
        pytest.param((160, 180), 15, "tv", marks=slow),
        pytest.param((255, 255), 51, None, marks=slow),
        pytest.param((320, 256), 31, "hyper-laplacian", marks=slow),
    ],
)
def test_the_peak_on_numpy(shape: tuple[int, int], kernel_size: int, final: str | None) -> None:
    check(shape, kernel_size, final=final)


@pytest.mark.parametrize(("shape", "kernel_size"), [((96, 112), 15), pytest.param((255, 255), 3, marks=slow)])
def test_one_start_and_one_scale(shape: tuple[int, int], kernel_size: int) -> None:
    """Of one initialization, no other kernels are held."""
    check(shape, kernel_size, starts=("wide",))


@slow
@pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch the border:RuntimeWarning")
def test_without_a_kernel_size() -> None:
    check((96, 112), None)


@slow
@pytest.mark.parametrize(
    ("channels", "dtype", "final"),
    [(3, "float32", "sparse"), (4, "float32", "hyper-laplacian"), (1, "float64", None), (3, "float64", "tv")],
)
def test_channels_and_precision(channels: int, dtype: str, final: str | None) -> None:
    check((130, 150), (21, 31), channels=channels, final=final, dtype=dtype)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "kernel_size", "final"),
    [*(((255, 255), 25, final) for final in FINALS), ((96, 112), 21, None), ((512, 512), 51, "sparse")],
)
def test_the_peak_on_a_gpu(cupy: Any, shape: tuple[int, int], kernel_size: int, final: str | None) -> None:
    """Of a stack too large for CUDA graphs, which have memory of their own."""
    from gpudeblur.numerics import device

    count = (1 << 24) // (shape[0] * shape[1])
    stack = cupy.random.default_rng(0).random((count, *shape), dtype=cupy.float32)

    def work() -> None:
        gd.deblur(stack, kernel_size, final=final, options=gd.TwoStepOptions(**SHORT))

    work()
    pool = cupy.get_default_memory_pool()
    device.clear()
    pool.free_all_blocks()
    before = pool.used_bytes()
    work()
    measured = (pool.total_bytes() - before) / count  # the pool gives nothing back by itself
    assert bytes_per_image(shape, kernel_size, final=final, backend="cupy") == pytest.approx(measured, rel=0.2)


def test_what_takes_more() -> None:
    base: dict[str, Any] = {"shape": (255, 255), "kernel_size": 25}
    least = bytes_per_image(**base)
    for more in ({"shape": (255, 300)}, {"kernel_size": 51}, {"channels": 3}, {"backend": "cupy"},
                 {"options": gd.TwoStepOptions(dtype="float64")}):  # fmt: skip
        assert bytes_per_image(**base | more) > least
    assert bytes_per_image(**base, final=None) < least
    assert bytes_per_image(**base, final=None) < bytes_per_image(**base, final=None, channels=3)
