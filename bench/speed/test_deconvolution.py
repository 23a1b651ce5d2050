"""Known kernels: our methods beside scikit-image's filters (cuCIM's on a GPU), 512 x 512 under 25 px."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from skimage.data import camera

import gpudeblur as gd
from bench.cases import blurred_camera
from bench.speed.conftest import TINY
from gpudeblur.synthesis import blur, trajectory_kernel

GROUP = "deconvolve 512 x 512, k = 25"
PEERS = {
    "richardson_lucy, 30 iterations": lambda library, *x: library.richardson_lucy(*x, num_iter=30, clip=False),
    "wiener": lambda library, *x: library.wiener(*x, 0.1, clip=False),
}


@pytest.fixture
def observed(device, smallest):
    """(blurred, kernel) on the device, with 1 % noise."""
    shape, size = TINY if smallest else ((512, 512), 25)
    noise = 0.01 * np.random.default_rng(0).standard_normal(shape)
    kernel = trajectory_kernel(size, rng=20).astype(np.float32)
    return device.put((blurred_camera(shape, size) + noise).astype(np.float32)), device.put(kernel)


@pytest.mark.parametrize("method", ["tv", "sparse", "hyper-laplacian", "wiener", "richardson-lucy", "epll"])
def test_deconvolve(measure, observed, method) -> None:
    measure(lambda: gd.deconvolve(*observed, method=method), GROUP)


@pytest.mark.parametrize("peer", PEERS)
def test_peer(measure, device, observed, peer) -> None:
    """Their work is less: periodic borders, and a number of iterations or a weight that a user must know."""
    library = pytest.importorskip(f"{'skimage' if device.name == 'cpu' else 'cucim.skimage'}.restoration")
    measure(lambda: PEERS[peer](library, *observed), GROUP)


@pytest.mark.parametrize("routine", ["yardstick", "sparse, its weight", "sparse"])
def test_the_yardstick(measure, device, request, smallest, routine) -> None:
    """The routine that the error ratios of Levin's pictures are defined by, 255 x 255, float64 as it is."""
    path = request.config.getoption("--yardstick")
    if path is None or device.name == "cuda":
        pytest.skip("needs --yardstick, on the CPU")
    spec = importlib.util.spec_from_file_location("eval_levin", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    kernel = trajectory_kernel(21, rng=20)
    blurred = blur(camera()[100:375, 100:375] / 255, kernel)
    narrow = blurred.astype(np.float32), kernel.astype(np.float32)
    routines = {
        "yardstick": lambda: script.deconv_sparse(blurred, kernel),
        "sparse, its weight": lambda: gd.deconvolve(*narrow, method="sparse", weight=0.0068, reweightings=2),
        "sparse": lambda: gd.deconvolve(*narrow, method="sparse"),
    }
    measure(routines[routine], "Levin's sparse deconvolution, 255 x 255, k = 21", budget=0.5)
