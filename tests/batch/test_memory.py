"""The memory model against the peak that is measured. If the inner loops change, so may its constants."""

from typing import Any

import numpy as np
import pytest
from laws import peak_on_numpy

import gpudeblur as gd
from gpudeblur.batch.memory import bytes_per_image

# The peak of one iteration is that of many.
SHORT: dict[str, Any] = {
    "iterations": 1,
    "finest_iterations": 1,
    "kernel_iterations": 2,
    "beta_max": 0.1,
    "finest_beta_max": 0.1,
}
ONE_START: dict[str, Any] = {"starts": ("wide",)}
FINALS = [None, "hyper-laplacian", "sparse", "tv"]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch the border:RuntimeWarning")
@pytest.mark.parametrize(
    ("shape", "kernel_size", "channels", "final", "more"),
    [
        ((96, 112), 15, 1, None, ONE_START),  # no kernels of other initializations are held
        slow((255, 255), 3, 1, None, ONE_START),  # one scale
        slow((255, 255), 51, 1, None, {}),
        slow((96, 112), 51, 1, "sparse", {}),
        slow((160, 180), 15, 1, "tv", {}),
        slow((320, 256), 31, 1, "hyper-laplacian", {}),
        slow((96, 112), None, 1, None, {}),
        slow((130, 150), (21, 31), 3, "sparse", {}),
        slow((130, 150), (21, 31), 5, "hyper-laplacian", {}),
        slow((130, 150), (21, 31), 3, "tv", {"dtype": "float64"}),
    ],
)
def test_the_model_is_within_20_percent_of_the_peak(
    shape: tuple[int, int], kernel_size: Any, channels: int, final: str | None, more: dict[str, Any]
) -> None:
    options = gd.TwoStepOptions(**SHORT, **more)
    sides, axis = (shape, None) if channels == 1 else ((*shape, channels), -1)
    u = np.random.default_rng(0).random(sides, dtype=np.float32)
    peak = peak_on_numpy(lambda: gd.deblur(u, kernel_size, channel_axis=axis, final=final, options=options))
    model = bytes_per_image(shape, kernel_size, channels=channels, final=final, options=options)
    assert model == pytest.approx(peak, rel=0.2)


def test_a_burst_takes_as_much_as_its_pictures() -> None:
    options, burst = gd.TwoStepOptions(**SHORT), np.random.default_rng(0).random((3, 96, 112), dtype=np.float32)
    peak = peak_on_numpy(lambda: gd.deblur(burst, 15, final=None, options=options, shared_kernel=True))
    assert 3 * bytes_per_image((96, 112), 15, final=None, options=options) == pytest.approx(peak, rel=0.2)


def test_a_gamma_holds_the_planes_twice() -> None:
    options, image = gd.TwoStepOptions(**SHORT, **ONE_START), np.random.default_rng(0).random((96, 112, 5)).astype("f4")
    arguments: dict[str, Any] = {"final": "hyper-laplacian", "options": options}
    peaks, models = [], []
    for gamma in (1.0, 2.2):
        settings: dict[str, Any] = arguments | {"gamma": gamma}
        peaks.append(peak_on_numpy(lambda values=settings: gd.deblur(image, 5, channel_axis=-1, **values)))
        models.append(bytes_per_image((96, 112), 5, channels=5, **settings))
    assert models[1] - models[0] == 4 * 6 * 96 * 112
    assert peaks[1] - peaks[0] == pytest.approx(models[1] - models[0], rel=0.2)


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
