"""The device path as a whole, on the CPU: every launch through the shim, every transform and every wait counted."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="gpudeblur._cuda.source needs it; no GPU is needed")
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

from cuda_on_cpu import device
from skimage.data import camera

import gpudeblur as gd
from gpudeblur.alternation import Iteration, Scale, alternate
from gpudeblur.kernel_refine import initial_kernel
from gpudeblur.nonblind import FINALS
from gpudeblur.nonblind.hyper_laplacian import hyper_laplacian
from gpudeblur.synthesis import blur, trajectory_kernel

QUICK = gd.TwoStepOptions(iterations=2, kernel_iterations=5, starts=("wide",), last_iterations=2)


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


def check_alike(on_device: gd.BlindResult, on_host: gd.BlindResult, atol: float) -> None:
    np.testing.assert_allclose(on_device.kernel.get(), on_host.kernel, atol=atol)
    np.testing.assert_allclose(on_device.image.get(), on_host.image, atol=10 * atol)
    for name in ("confidence", "border_mass", "spectral_match", "energy", "gradient_gain", "agreement", "strength"):
        np.testing.assert_allclose(on_device.info[name], on_host.info[name], atol=100 * atol, err_msg=name)


def test_the_defaults_on_a_device(cupy: Any) -> None:
    """All starts, judged, the best of them finished; on one picture and on a stack."""
    for stack in (photos(2), photos(1)[0]):
        check_alike(gd.deblur(cupy.asarray(stack), 7), gd.deblur(stack, 7), 2e-5)


@pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch the border:RuntimeWarning")
def test_the_size_of_the_kernel_is_found_on_a_device(cupy: Any) -> None:
    stack = photos(2)
    options = dataclasses.replace(QUICK, starts=("text", "sparse"))
    on_device, on_host = (gd.deblur(u, options=options) for u in (cupy.asarray(stack), stack))
    assert on_device.kernel.shape == on_host.kernel.shape
    check_alike(on_device, on_host, 2e-5)


def test_colours_that_share_a_kernel_are_restored_on_a_device(cupy: Any) -> None:
    colours = np.stack([photos(2), photos(2)[::-1], photos(2) ** 2], axis=-1)
    on_device = gd.deblur(cupy.asarray(colours), 7, channel_axis=-1, options=QUICK, final="hyper-laplacian")
    on_host = gd.deblur(colours, 7, channel_axis=-1, options=QUICK, final="hyper-laplacian")
    np.testing.assert_allclose(on_device.image.get(), on_host.image, atol=2e-4)


def test_the_restoration_is_replayed_as_a_graph(cupy: Any) -> None:
    """From the second time on that a shape comes, other weights apart; pictures are all new."""
    from gpudeblur import _cuda, _device

    _device.clear()
    for number in range(4):
        stack, kernel = photos(2 + number)[number:], trajectory_kernel(7, rng=number).astype(np.float32)
        found = hyper_laplacian(cupy.asarray(stack), cupy.asarray(kernel), weight=1e-3 if number == 3 else 5e-4)
        expected = hyper_laplacian(stack, kernel, weight=1e-3 if number == 3 else 5e-4)
        np.testing.assert_allclose(found.get(), expected, atol=2e-4)
        assert _cuda.launches["graph"] == min(number, 2)


def test_a_pass_of_the_restoration_is_two_launches_and_two_transforms(cupy: Any) -> None:
    """Nothing else touches memory: no allocation, no copy, no waiting. So, too, where colours share a kernel."""
    from gpudeblur import _cuda, _device

    def costs(passes: int, picture: Any, kernel: Any) -> Counter[str]:
        _device.clear()
        _cuda.launches.clear()
        device.counts.clear()
        hyper_laplacian(picture, kernel, beta_max=2.0 ** (1.5 * (passes - 1)), **FINALS["hyper-laplacian"])
        return Counter({name: n for name, n in _cuda.launches.items() if not name.startswith("cufft")}) + device.counts

    kernel = cupy.asarray(np.stack([trajectory_kernel(7, rng=i) for i in range(2)]).astype(np.float32))
    for lead, kernels in (((2,), kernel), ((2, 3), kernel[:, None])):
        picture = cupy.asarray(np.random.default_rng(0).random((*lead, 44, 44), np.float32))
        costs(1, picture, kernels)  # uploads what is uploaded once
        three, five = costs(3, picture, kernels), costs(5, picture, kernels)
        assert not three["waits"]
        assert not five["waits"]
        five.subtract(three)
        pixels, bins = np.prod(lead) * 50 * 50, np.prod(lead) * 50 * 26
        in_memory = 8 * pixels + (4 * pixels + 8 * bins) + (8 + 8 + 4) * bins + (8 * bins + 4 * pixels)
        assert +five == {"shrink_split": 2, "spectral_solve": 2, "transforms": 4, "bytes": 2 * in_memory}


def test_a_scale_is_replayed_as_a_graph(cupy: Any) -> None:
    """The third run of a shape is graphs alone, on pictures that the captured ones have never seen."""
    from gpudeblur import _cuda

    for number in range(3):
        stack = photos(2 + number)[number:]
        found = gd.estimate_kernel(cupy.asarray(stack), 7, options=QUICK)
        np.testing.assert_allclose(found.get(), gd.estimate_kernel(stack, 7, options=QUICK), atol=2e-5)
    assert _cuda.launches["graph"] == 2 * 2


def costs(cupy: Any, iterations: int, options: gd.TwoStepOptions, cut: float) -> Counter[str]:
    """What the loop of one scale does: launches by name, transforms, bytes, allocations, waits, uploads."""
    from gpudeblur import _cuda, _device

    picture = cupy.asarray(photos(2, 50))
    scale = Scale((7, 7), (50, 50), 1.0, (Iteration(0.01, 0.1, cut),) * iterations, 0.3, options.beta_max)
    kernel = initial_kernel((7, 7), 2, cupy, np.float32)
    _device.clear()
    _cuda.launches.clear()
    device.counts.clear()
    alternate(picture, kernel, scale, options, lambda _: None)
    return Counter({name: n for name, n in _cuda.launches.items() if not name.startswith("cufft")}) + device.counts


def per_iteration(cupy: Any, cut: float = 0.0, **options: Any) -> Counter[str]:
    plain = gd.TwoStepOptions(**{"smooth_weight": 0.0, "kernel_iterations": 2, **options})
    costs(cupy, 1, plain, cut)  # uploads what is uploaded once
    more, less = costs(cupy, 5, plain, cut), costs(cupy, 2, plain, cut)
    more.subtract(less)
    assert all(n % 3 == 0 for n in more.values())
    return Counter({name: n // 3 for name, n in more.items() if n})


def test_a_pass_of_the_latent_step_is_two_launches_and_two_transforms(cupy: Any) -> None:
    """Nothing else touches memory: no allocation, no copy of what is transformed back, no waiting."""
    some, one_more = (per_iteration(cupy, beta_max=0.02 * 2**n + 1e-3) for n in (3, 4))
    one_more.subtract(some)
    pixels, bins = 2 * 50 * 50, 2 * 50 * 26
    in_memory = 8 * pixels + (4 * pixels + 8 * bins) + (8 + 8 + 4) * bins + (8 * bins + 4 * pixels)
    assert +one_more == {"l0_split": 1, "spectral_solve": 1, "transforms": 2, "bytes": in_memory}


def test_a_kernel_step_asks_for_no_memory_and_waits_for_nothing(cupy: Any) -> None:
    cost = per_iteration(cupy, beta_max=0.021)  # one pass
    launches = {"l0_split", "spectral_solve", "transfer", "voting_threshold", "voting_split", "normal_spectra"}
    launches |= {"spectrum_max", "toeplitz_nnls", "normalise"}
    assert {name: cost.pop(name) for name in launches} == dict.fromkeys(launches, 1)
    assert cost.pop("kernel_grid") == 2  # of the kernel, of the lags
    assert cost.pop("lags") == 2
    assert cost.pop("transforms") == 2 + 1 + 4 + 1  # a pass; the kernel; x, votes and back twice; the lags
    assert cost.pop("bytes")
    assert not cost


def test_a_cut_after_the_kernel_step_is_one_launch(cupy: Any) -> None:
    cost = per_iteration(cupy, beta_max=0.021, cut=0.1)
    cost.subtract(per_iteration(cupy, beta_max=0.021))
    assert cost.pop("bytes") == 2 * 4 * 2 * 7 * 7
    assert +cost == {"project": 1}


def test_the_smooth_prior_is_launches_too(cupy: Any) -> None:
    cost = per_iteration(cupy, beta_max=0.021, smooth_weight=1.0)
    assert (cost["edge_mask"], cost["dilate"], cost["gaussian_smooth"], cost["smooth_split"]) == (1, 2, 2, 1)
    assert not cost["allocations"]
    assert not cost["waits"]
    assert not cost["uploads"]
