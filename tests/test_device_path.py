"""The device path as a whole, on the CPU: every launch through the shim, every transform and every wait counted."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="gpudeblur._cuda.source needs it; no GPU is needed")
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

from cuda_on_cpu import device
from cuda_on_cpu.build import build
from skimage.data import camera

import gpudeblur as gd
from gpudeblur import _cuda
from gpudeblur.synthesis import blur, trajectory_kernel

QUICK = gd.TwoStepOptions(iterations=2, kernel_iterations=5)


@pytest.fixture(scope="module")
def cpu_kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("device")
    return functools.cache(lambda name: build(name, _cuda.source(name), folder))


@pytest.fixture
def cupy(cpu_kernel: Any) -> Iterator[Any]:
    with device.installed(cpu_kernel) as cupy:
        yield cupy


def photos(n: int, size: int = 40) -> np.ndarray:
    sharp = camera()[100:, 180:] / 255
    return np.stack([
        blur(sharp[20 * i : 20 * i + size + 6, : size + 6], trajectory_kernel(7, rng=i)) for i in range(n)
    ]).astype(np.float32)  # fmt: skip


def test_the_whole_method_on_a_device(cupy: Any) -> None:
    stack = photos(2)
    for final in ("sparse", "hyper-laplacian"):
        on_device = gd.deblur(cupy.asarray(stack), 7, options=QUICK, final=final)
        on_host = gd.deblur(stack, 7, options=QUICK, final=final)
        assert on_device.info["backend"] == "cupy"
        np.testing.assert_allclose(on_device.kernel.get(), on_host.kernel, atol=2e-5)
        np.testing.assert_allclose(on_device.image.get(), on_host.image, atol=2e-4)


def test_a_scale_is_replayed_as_a_graph(cupy: Any) -> None:
    """The third run of a shape is graphs alone, on pictures that the captured ones have never seen."""
    from gpudeblur import _cuda

    for number in range(3):
        stack = photos(2 + number)[number:]
        found = gd.estimate_kernel(cupy.asarray(stack), 7, options=QUICK)
        np.testing.assert_allclose(found.get(), gd.estimate_kernel(stack, 7, options=QUICK), atol=2e-5)
    assert _cuda.launches["graph"] == 2 * 2
