"""The initialization "network": the kernel of the sketch network as a start of the two-step method."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data
from test_options import Unreadable

import gpudeblur as gd
from gpudeblur.blind import two_step
from gpudeblur.blind.observation import Observation
from gpudeblur.blind.options import Settings
from gpudeblur.images.kernels import fit_size
from gpudeblur.metrics import kernel_similarity
from gpudeblur.networks import catalog, restore
from gpudeblur.synthesis import blur, trajectory_kernel

ROOT = Path(__file__).parent.parent.parent
SHARP = data.astronaut()[60:130, 170:236].mean(axis=2) / 255
TRUE = trajectory_kernel(9, rng=3)
BLURRED = blur(SHARP, TRUE, noise_sigma=0.005, rng=0).astype(np.float32)
ANOTHER = blur(SHARP[::-1], trajectory_kernel(9, rng=5), noise_sigma=0.005, rng=1).astype(np.float32)
ALONE = gd.TwoStepOptions(starts=("network",), finest_iterations=2)
SEVERAL = gd.TwoStepOptions(starts=("sparse", "network"), iterations=2, finest_iterations=2)


def observe(images: np.ndarray, options: gd.TwoStepOptions) -> Observation:
    return Observation.of(images, Settings.of(9, None, None, "two-step", None, 1.0, None, options))


def no_report(fraction: float) -> None:
    pass


def coarse(images: np.ndarray, options: gd.TwoStepOptions) -> tuple[np.ndarray, ...]:
    arrays = two_step.views_of(observe(images, options), (9, 9), options).arrays
    return two_step.coarse_kernels(*arrays, size=(9, 9), options=options, report=no_report)


@pytest.fixture
def network(shipped_networks: dict[str, Path]) -> Any:
    return restore.load("sketch", None)


def test_the_kernel_is_that_of_the_network_in_the_window(network: Any) -> None:
    images = np.stack([BLURRED, ANOTHER])
    _, expected = restore.restore_images(network, images[:, None])
    assert expected is not None
    for size in ((7, 7), (9, 13), (15, 11)):
        kernel = two_step.network_kernel(images, size)
        assert (kernel.shape, kernel.dtype) == ((2, *size), np.float32)
        assert kernel.min() >= 0
        np.testing.assert_allclose(kernel.sum(axis=(1, 2)), 1, rtol=1e-5)
        cut = fit_size(expected, size)
        np.testing.assert_allclose(kernel, cut / cut.sum(axis=(1, 2), keepdims=True), atol=1e-6)
    assert two_step.network_kernel(images.astype(np.float64), (9, 9)).dtype == np.float64


def test_it_is_a_start_beside_the_others(network: Any) -> None:
    images = BLURRED[None]
    kernels, *parts = coarse(images, SEVERAL)
    assert kernels.shape == (2, 1, 9, 9)
    np.testing.assert_allclose(kernels[1], two_step.network_kernel(images, (9, 9)), atol=1e-6)
    without, *_ = coarse(images, replace(SEVERAL, starts=("sparse",)))
    np.testing.assert_allclose(kernels[0], without[0], atol=1e-5)
    for scores in parts:
        assert scores.shape == (2, 1)
        assert scores[0, 0] != scores[1, 0]


def test_alone_it_is_the_only_coarse_kernel(network: Any) -> None:
    kernels, *_ = coarse(BLURRED[None], ALONE)
    np.testing.assert_allclose(kernels[0], two_step.network_kernel(BLURRED[None], (9, 9)), atol=1e-6)


@pytest.mark.parametrize("is_true", [True, False])
def test_it_is_judged_like_the_others(network: Any, is_true: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true kernel wins over a hopeless start; a wrong one loses against a good start."""
    kernel = TRUE if is_true else np.ascontiguousarray(TRUE[::-1, ::-1].T)
    monkeypatch.setattr(two_step, "network_kernel", lambda image, size: np.stack([kernel] * len(image), dtype="f4"))
    options = gd.TwoStepOptions(starts=("sparse", "compact", "network"), finest_candidates=1)
    result = gd.estimate_kernel(BLURRED, 9, options=options)
    if is_true:
        assert kernel_similarity(result, TRUE) > 0.9
    else:
        others = gd.TwoStepOptions(starts=("sparse", "compact"), finest_candidates=1)
        expected = kernel_similarity(gd.estimate_kernel(BLURRED, 9, options=others), TRUE)
        assert kernel_similarity(result, TRUE) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("options", [ALONE, SEVERAL], ids=["alone", "several"])
@pytest.mark.parametrize("size", [9, (7, 11)])
def test_a_batch_equals_a_loop(network: Any, options: gd.TwoStepOptions, size: Any) -> None:
    stack = np.stack([BLURRED, np.full_like(BLURRED, 0.5), ANOTHER])
    before = stack.copy()
    together = gd.estimate_kernel(stack, size, options=options)
    height, width = (size, size) if isinstance(size, int) else size
    assert together.shape == (3, height, width)
    assert together.min() >= 0
    np.testing.assert_allclose(together.sum(axis=(1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(stack, before)
    for image, kernel in zip(stack, together, strict=True):
        np.testing.assert_allclose(gd.estimate_kernel(image, size, options=options), kernel, atol=1e-5)


def test_networks_take_a_stack_in_parts(network: Any) -> None:
    images = np.stack([BLURRED, ANOTHER] * restore.CPU_STACK)[: restore.CPU_STACK + 1]
    kernels = restore.estimate_kernels(network, images[:, None])
    assert kernels.shape == (len(images), 11, 11)
    np.testing.assert_allclose(kernels[-1:], restore.estimate_kernels(network, images[-1:, None]), atol=1e-5)


def test_deblur_runs_with_it(network: Any) -> None:
    result = gd.deblur(BLURRED, 9, options=ALONE, final="hyper-laplacian")
    assert np.isfinite(result.image).all()
    assert 0 <= result.info["confidence"] <= 1


# ------------------------------------------------------------------ before any pixel is read
def test_without_torch_the_message_says_what_to_install(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    message = r"needs PyTorch, which cannot be imported .* pip install 'gpudeblur\[torch\]'"
    for function in (gd.deblur, gd.estimate_kernel):
        with pytest.raises(ImportError, match=message):
            function(Unreadable(), 9, options=SEVERAL)
    with pytest.raises(ImportError, match=message):
        gd.deblur_batch([], 9, options=SEVERAL)
    gd.estimate_kernel(BLURRED, 9, options=gd.TwoStepOptions(starts=("wide",), iterations=1))  # needs none


def test_without_weights_the_message_says_so(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "shipped_weights", lambda name: tmp_path / "none")
    restore._load.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"^no weights of the network 'sketch' ship with this version"):
        gd.deblur(Unreadable(), 9, options=SEVERAL)


def test_the_default_needs_no_torch() -> None:
    """Neither the import nor a call without "network"."""
    code = (
        "import sys, numpy, gpudeblur as gd; x = numpy.random.default_rng(0).random((20, 20)); "
        "gd.estimate_kernel(x, 5, options=gd.TwoStepOptions(starts=('wide',), iterations=1)); "
        "assert 'network' not in gd.TwoStepOptions().starts; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
