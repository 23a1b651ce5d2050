"""Rung 3: the CUDA sources run on the CPU (cuda_on_cpu/), through the launch functions of `_cuda`, against their twins.

`_cuda` gets NumPy for CuPy and the shim for RawKernel, so grids, argument order and argument types are tested as well
as the kernels. Each case runs with the threads of a block in several orders, which must not change a bit: a missing
barrier does. The last test runs the others again under the address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="gpudeblur._cuda imports it; no GPU is needed")
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

from cuda_on_cpu.build import CpuKernel, build, sanitized_environment

from gpudeblur import _cuda, filters, kernel_step

SANITIZE = bool(os.environ.get("GPUDEBLUR_TEST_SANITIZE"))
ORDERS = (0,) if SANITIZE else (0, 1, 2, 3)
LARGE_SHARED = 227 << 10
SHAPES = [(1, 37, 31), (3, 5, 64), (2, 70, 33), (2, 1, 7), (2, 7, 1), (1, 1, 1), (2, 2, 2), (2, 3, 4, 5), (0, 3, 4)]
KERNELS = [(3, 3), (1, 1), (1, 5), (7, 3), (13, 9), (5, 19)]

in_every_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(scope="session")
def cpu_kernel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], CpuKernel]:
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    return functools.cache(lambda name: build(name, _cuda.source(name), folder, sanitize=SANITIZE))


@pytest.fixture
def cuda(cpu_kernel: Any, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """`_cuda` on NumPy arrays."""
    monkeypatch.setattr(_cuda, "cupy", np)
    monkeypatch.setattr(_cuda, "_kernel", cpu_kernel)
    monkeypatch.setattr(_cuda, "_shared_limit", lambda: LARGE_SHARED)
    monkeypatch.setattr(_cuda, "_weights_on_device", _cuda._weights)
    return _cuda


def run(launch: Callable[..., Any], *args: Any) -> Any:
    """The launch's result, the same in every order of the threads; the arguments stay as they are."""
    results = []
    for CpuKernel.order in ORDERS:
        results.append(launch(*(a.copy() if isinstance(a, np.ndarray) else a for a in args)))
        np.testing.assert_array_equal(results[-1], results[0])
    return results[0]


def picture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Steps and noise: gradients on both sides of any threshold."""
    random = np.random.default_rng(seed)
    return (np.round(random.random(shape) * 3) / 3 + 0.1 * random.random(shape)).astype(np.float32)


def one_each(shape: tuple[int, ...], values: tuple[float, ...] = (0.05, 0.2)) -> np.ndarray:
    return np.resize(np.float32(values), shape[:-2])


def check_neighbours(launch: Callable[..., Any], batch: np.ndarray, *args: Any) -> None:
    """A NaN picture in the middle of three leaves the others bit for bit what they are alone, and stays NaN."""
    batch = batch.copy()
    batch[1].flat[batch[1].size // 2] = np.nan
    out = run(launch, batch, *args)
    for i in (0, 2):
        np.testing.assert_array_equal(out[i], run(launch, batch[i], *args))
    if out.dtype.kind == "f":
        assert np.isnan(out[1]).any()


@in_every_shape
def test_l0_split(cuda: Any, shape: tuple[int, ...]) -> None:
    u = picture(shape)
    for threshold in (0.0, 0.1, one_each(shape)):
        np.testing.assert_array_equal(run(cuda.l0_split, u, threshold), filters.l0_split(u, threshold))


def test_l0_split_of_nan(cuda: Any) -> None:
    check_neighbours(cuda.l0_split, picture((3, 9, 11)), 0.1)
    u = picture((2, 35, 33))
    u[0, 3, 4], u[1, 0, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(run(cuda.l0_split, u, 0.1), filters.l0_split(u, 0.1))


@in_every_shape
def test_edge_mask(cuda: Any, shape: tuple[int, ...]) -> None:
    u = picture(shape)
    for threshold in (0.0, 0.1, one_each(shape)):
        mask = run(cuda.edge_mask, u, threshold)
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, filters.edge_mask(u, threshold))


def test_edge_mask_of_nan(cuda: Any) -> None:
    check_neighbours(cuda.edge_mask, picture((3, 9, 11)), 0.1)


@in_every_shape
@pytest.mark.parametrize("radius", [0, 1, 4, 40])
def test_dilate(cuda: Any, shape: tuple[int, ...], radius: int) -> None:
    mask = np.random.default_rng(radius).random(shape) < 0.02
    np.testing.assert_array_equal(run(cuda.dilate, mask, radius), filters.dilate(mask, radius))


@pytest.mark.parametrize("radius", [1, 15, 16, 17, 31, 32, 33, 512, 2000])
def test_dilate_over_words_and_segments(cuda: Any, radius: int) -> None:
    """Single pixels around the borders of the 32-bit words and of the 1024-pixel segments."""
    for column in (0, 31, 32, 1023, 1024, 1055, 2079):
        mask = np.zeros((1, 1, 2080), dtype=bool)
        mask[..., column] = True
        np.testing.assert_array_equal(run(cuda.dilate, mask, radius), filters.dilate(mask, radius))


@in_every_shape
@pytest.mark.parametrize("sigma", [0.3, 1.7, 12.0])
def test_gaussian_smooth(cuda: Any, shape: tuple[int, ...], sigma: float) -> None:
    u = picture(shape)
    np.testing.assert_allclose(run(cuda.gaussian_smooth, u, sigma), filters.gaussian_smooth(u, sigma), rtol=1e-6)


def test_gaussian_smooth_of_nan(cuda: Any) -> None:
    check_neighbours(cuda.gaussian_smooth, picture((3, 9, 11)), 0.8)


@in_every_shape
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_smooth_split(cuda: Any, shape: tuple[int, ...], share: float) -> None:
    u, mask = picture(shape), np.random.default_rng(1).random(shape) < share
    np.testing.assert_array_equal(run(cuda.smooth_split, u, mask), filters.smooth_split(u, mask))


def test_smooth_split_of_nan(cuda: Any) -> None:
    mask = np.random.default_rng(1).random((9, 11)) < 0.3
    check_neighbours(lambda u: cuda.smooth_split(u, np.broadcast_to(mask, u.shape)), picture((3, 9, 11)))


def spectra(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random, bins = np.random.default_rng(0), (*shape[:-1], shape[-1] // 2 + 1)
    data, split = (random.normal(size=(2, *bins)) + 1j * random.normal(size=(2, *bins))).astype(np.complex64)
    return data, split, (random.random(bins) + 0.1).astype(np.float32)


@in_every_shape
@pytest.mark.parametrize("weight", [0.01, 100.0])
def test_spectral_solve(cuda: Any, shape: tuple[int, ...], weight: float) -> None:
    data, split, power = spectra(shape)
    out = run(cuda.spectral_solve, data, split, power, weight, shape[-2:])
    expected = filters.spectral_solve(data, split.copy(), power, weight, shape[-2:])
    np.testing.assert_allclose(out, expected, rtol=3e-6, atol=1e-12)


def test_spectral_solve_is_exact_at_the_far_end_of_a_long_axis(cuda: Any) -> None:
    """sin(pi i / H) for i close to H loses its digits in float32 unless the angle is folded."""
    shape = (4096, 2)
    data, split, power = spectra(shape)
    out = cuda.spectral_solve(data, split.copy(), power * 0, 1e4, shape)
    with np.errstate(all="ignore"):
        expected = filters.spectral_solve(data, split.copy(), power * 0, 1e4, shape)
    np.testing.assert_allclose(out[1:], expected[1:], rtol=1e-5)


def test_spectral_solve_is_in_place(cuda: Any) -> None:
    data, split, power = spectra((2, 6, 8))
    assert cuda.spectral_solve(data, split, power, 1.0, (6, 8)) is split
    strided = np.repeat(spectra((2, 6, 8))[1], 2, axis=-1)[..., ::2]
    assert cuda.spectral_solve(data, strided, power, 1.0, (6, 8)) is strided
    np.testing.assert_array_equal(strided, split)


def test_spectral_solve_of_nan(cuda: Any) -> None:
    data, split, power = spectra((3, 9, 11))
    split[1, 4, 4] = np.nan
    out = run(cuda.spectral_solve, data, split, power, 1.0, (9, 11))
    expected = [run(cuda.spectral_solve, data[i], split[i], power[i], 1.0, (9, 11)) for i in range(3)]
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(out).sum() == 1


def system(size: tuple[int, int], n: int = 2) -> tuple[np.ndarray, ...]:
    """(autocorrelation, rhs, start, ridge) of the kernel step on random gradients."""
    random, (kh, kw) = np.random.default_rng(0), size
    shape = (n, 2 * kh + 6, 2 * kw + 6)
    u = random.normal(size=shape)
    u[:, -kh:], u[:, :, -kw:] = 0, 0  # no wrapping: then the matrix is positive definite
    hat = np.abs(np.fft.fft2(u)) ** 2
    lags = np.fft.ifft2(hat).real[:, np.arange(1 - kh, kh)[:, None], np.arange(1 - kw, kw)]
    rhs, start = random.normal(size=(2, n, kh, kw)) * lags.max()
    ridge = np.linspace(0.1, 0.2, n) * lags.max()
    return tuple(a.astype(np.float32) for a in (lags, rhs, start / lags.max(), ridge))


def check_toeplitz(out: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(out, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", KERNELS)
@pytest.mark.parametrize("limit", [LARGE_SHARED, 0])
def test_toeplitz_cg(cuda: Any, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], limit: int) -> None:
    # A limit that holds the vectors alone leaves the autocorrelation in global memory.
    monkeypatch.setattr(_cuda, "_shared_limit", lambda: max(limit, _cuda._vectors_bytes(*size)))
    a, rhs, start, ridge = system(size)
    wide = [x.astype(np.float64) for x in (a, rhs, start, ridge)]
    for iterations in (0, 1, 6):
        out = run(cuda.toeplitz_cg, a, rhs, start, ridge, iterations)
        check_toeplitz(out, kernel_step.toeplitz_cg(*wide, iterations))


def steps(a: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    return (1 / (np.abs(a).sum((-2, -1)) + ridge)).astype(np.float32)


@pytest.mark.parametrize("size", KERNELS)
@pytest.mark.parametrize("limit", [LARGE_SHARED, 0])
def test_toeplitz_nnls(cuda: Any, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], limit: int) -> None:
    monkeypatch.setattr(_cuda, "_shared_limit", lambda: max(limit, _cuda._vectors_bytes(*size)))
    a, rhs, start, ridge = system(size)
    step = steps(a, ridge)
    for iterations in (0, 1, 6):
        expected = projected_gradients(*(x.astype(np.float64) for x in (a, rhs, start, ridge, step)), iterations)
        check_toeplitz(run(cuda.toeplitz_nnls, a, rhs, start, ridge, step, iterations), expected)


def projected_gradients(a: Any, rhs: Any, start: Any, ridge: Any, step: Any, iterations: int) -> np.ndarray:
    """`kernel_step.toeplitz_nnls` for any step: the twin takes its own."""
    spectrum, grid = kernel_step.toeplitz_spectrum(a)
    ridge, step = ridge[:, None, None], step[:, None, None]
    kernel, ahead, momentum = start, start, 1.0
    for _ in range(iterations):
        last = kernel
        kernel = np.maximum(ahead - step * (kernel_step.toeplitz_apply(spectrum, grid, ahead, ridge) - rhs), 0)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = kernel + (momentum - 1) / following * (kernel - last)
        momentum = following
    return kernel


def test_toeplitz_nnls_is_the_twin(cuda: Any) -> None:
    """To convergence, where the step no longer matters."""
    a, rhs, start, ridge = system((7, 5))
    out = cuda.toeplitz_nnls(a, rhs, start, ridge, steps(a, ridge), 300)
    expected = kernel_step.toeplitz_nnls(*(x.astype(np.float64) for x in (a, rhs, start, ridge)), 300)
    check_toeplitz(out, expected)
    assert (out == 0).any()
    assert (out > 0).any()


def test_toeplitz_with_more_strips_than_threads(cuda: Any) -> None:
    """65 columns of 17 strips are more than 1024 threads."""
    a, rhs, start, ridge = system((67, 65), n=1)
    wide = [x.astype(np.float64) for x in (a, rhs, start, ridge)]
    check_toeplitz(cuda.toeplitz_cg(a, rhs, start, ridge, 1), kernel_step.toeplitz_cg(*wide, 1))


def test_toeplitz_of_nan_and_zero(cuda: Any) -> None:
    """A NaN system and a zero one in a batch: each is what it is alone."""
    a, rhs, start, ridge = system((5, 7), n=4)
    rhs[1, 2, 2] = np.nan
    for zero in (a, rhs, start, ridge):
        zero[2] = 0
    step = steps(a, np.maximum(ridge, 1))
    for launch, numbers in ((cuda.toeplitz_cg, (ridge,)), (cuda.toeplitz_nnls, (ridge, step))):
        out = run(launch, a, rhs, start, *numbers, 5)
        for i in range(4):
            np.testing.assert_array_equal(out[i], run(launch, a[i], rhs[i], start[i], *(x[i] for x in numbers), 5))
        assert np.isnan(out[1]).all()
        assert not out[2].any()


def test_cg_of_a_solved_system_stands_still(cuda: Any) -> None:
    a, _, start, ridge = system((5, 5))
    spectrum, grid = kernel_step.toeplitz_spectrum(a)
    rhs = kernel_step.toeplitz_apply(spectrum, grid, start, ridge[:, None, None]).astype(np.float32)
    np.testing.assert_allclose(run(cuda.toeplitz_cg, a, rhs, start, ridge, 60), start, atol=1e-5)


def test_what_fits(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for kilobytes, largest in ((64, 63), (99, 79), (227, 119)):
        monkeypatch.setattr(_cuda, "_shared_limit", lambda kilobytes=kilobytes: kilobytes << 10)
        assert cuda.toeplitz_fits(largest, largest)
        assert not cuda.toeplitz_fits(largest + 2, largest + 2)
    a, rhs, start, ridge = system((3, 3))
    monkeypatch.setattr(_cuda, "_shared_limit", lambda: 100)
    with pytest.raises(ValueError, match=r"must fit .*shared memory \(100 bytes\), got \(3, 3\), which needs 272"):
        cuda.toeplitz_cg(a, rhs, start, ridge, 1)


def test_inputs_that_are_not_contiguous(cuda: Any) -> None:
    u = picture((2, 12, 20))[:, ::2, ::-1]
    contiguous = u.copy()
    np.testing.assert_array_equal(cuda.l0_split(u, 0.1), filters.l0_split(contiguous, 0.1))
    np.testing.assert_array_equal(cuda.edge_mask(u, 0.1), filters.edge_mask(contiguous, 0.1))
    np.testing.assert_array_equal(cuda.dilate(u > 0.8, 1), filters.dilate(contiguous > 0.8, 1))
    np.testing.assert_array_equal(cuda.smooth_split(u, u > 0.8), filters.smooth_split(contiguous, contiguous > 0.8))
    np.testing.assert_array_equal(cuda.gaussian_smooth(u, 0.5), cuda.gaussian_smooth(contiguous, 0.5))


def test_launch_functions_refuse_what_their_kernels_would_misread(cuda: Any) -> None:
    u = picture((2, 4, 6))
    with pytest.raises(TypeError, match=r"u must be float32 for its CUDA kernel, got float64; convert it"):
        cuda.l0_split(u.astype(np.float64), 0.1)
    with pytest.raises(TypeError, match=r"mask must be bool for its CUDA kernel, got float32"):
        cuda.dilate(u, 1)
    with pytest.raises(ValueError, match=r"u must have at least two axes \(\.\.\., H, W\), got shape \(6,\)"):
        cuda.edge_mask(u[0, 0], 0.1)
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 4, 6\), got \(4, 6\); broadcast it first"):
        cuda.smooth_split(u, u[0] > 0)
    data, split, power = spectra((2, 4, 6))
    with pytest.raises(ValueError, match=r"split must have shape \(2, 4, 4\), got \(2, 4, 5\)"):
        cuda.spectral_solve(data, np.zeros((2, 4, 5), np.complex64), power, 1.0, (4, 6))
    with pytest.raises(ValueError, match=r"data must have shape \(2, 4, 4\), got \(4, 4\)"):
        cuda.spectral_solve(data[0], split, power, 1.0, (4, 6))
    a, rhs, start, ridge = system((3, 3))
    with pytest.raises(ValueError, match=r"ridge must have shape \(2,\), got \(1,\)"):
        cuda.toeplitz_cg(a, rhs, start, ridge[:1], 1)
    with pytest.raises(ValueError, match=r"autocorrelation must have shape \(2, 5, 5\), got \(2, 3, 3\)"):
        cuda.toeplitz_cg(a[:, :3, :3], rhs, start, ridge, 1)


def test_launches_are_counted(cuda: Any) -> None:
    before = cuda.launches.copy()
    cuda.dilate(np.zeros((2, 3, 4), bool), 1)
    cuda.l0_split(picture((2, 3, 4)), 0.1)
    assert cuda.launches - before == {"dilate": 2, "l0_split": 1}


def broken(name: str, old: str, new: str, folder: Path) -> CpuKernel:
    source = _cuda.source(name)
    assert source.count(old), old
    return build(name, source.replace(old, new), folder, sanitize=SANITIZE)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("l0_split", "__syncthreads();", ""),
        ("dilate", "__syncthreads();", ""),
        ("toeplitz_nnls", "momentum = following;\n        __syncthreads();", "momentum = following;"),
        ("toeplitz_cg", "__syncthreads();  // the last call's partial sums have been read", ""),
    ],
)
@pytest.mark.skipif(SANITIZE, reason="about the order of threads, not about memory")
def test_a_missing_barrier_shows(cuda: Any, monkeypatch: Any, tmp_path: Path, name: str, old: str, new: str) -> None:
    """The shim itself: without this barrier the result depends on the order of the threads."""
    kernel = broken(name, old, new, tmp_path)
    monkeypatch.setattr(_cuda, "_kernel", lambda _: kernel)
    a, rhs, start, ridge = system((13, 9))
    calls = {
        "l0_split": (cuda.l0_split, picture((1, 37, 31)), 0.1),
        "dilate": (cuda.dilate, picture((1, 37, 31)) > 0.8, 2),
        "toeplitz_nnls": (cuda.toeplitz_nnls, a, rhs, start, ridge, steps(a, ridge), 3),
        "toeplitz_cg": (cuda.toeplitz_cg, a, rhs, start, ridge, 3),
    }
    with pytest.raises(AssertionError):
        run(*calls[name])


def test_a_barrier_that_some_threads_miss_is_an_error(cuda: Any, monkeypatch: Any, tmp_path: Path) -> None:
    kernel = broken("l0_split", "__syncthreads();", "if (threadIdx.x != 3) __syncthreads();", tmp_path)
    monkeypatch.setattr(_cuda, "_kernel", lambda _: kernel)
    with pytest.raises(AssertionError, match="l0_split: a barrier is not reached by every thread"):
        cuda.l0_split(picture((1, 37, 31)), 0.1)


def test_the_shim_refuses_a_wrong_argument(cpu_kernel: Any) -> None:
    u = picture((1, 4, 4))
    good = (u, np.uintp(0), np.float32(0.1), np.empty_like(u), np.int32(4), np.int32(4))
    cpu_kernel("l0_split")((1,), (32, 8), good)
    for i, wrong in ((0, u.astype(np.float64)), (2, 0.1), (2, np.float64(0.1)), (4, 4), (4, np.int64(4))):
        with pytest.raises((AssertionError, KeyError)):
            cpu_kernel("l0_split")((1,), (32, 8), (*good[:i], wrong, *good[i + 1 :]))


@pytest.mark.skipif(SANITIZE, reason="this is the run that the test starts")
def test_under_sanitizers() -> None:
    """This file again, every kernel built with the address and undefined-behaviour sanitizers."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | sanitized_environment())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.skipif(SANITIZE, reason="starts sanitized runs itself")
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("edge_mask", "if (x >= w) return;", ""),  # beyond an array
        ("toeplitz_cg", "float* copy = memory + 4 * size;", "float* copy = memory + 4 * size + 1;"),  # or shared memory
    ],
)
def test_an_overrun_shows_under_sanitizers(tmp_path: Path, name: str, old: str, new: str) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import pathlib, numpy, test_cuda_on_cpu as t
kernel = t.broken({name!r}, {old!r}, {new!r}, pathlib.Path({str(tmp_path)!r}))
t._cuda.cupy, t._cuda._kernel, t._cuda._shared_limit = numpy, lambda name: kernel, lambda: 1 << 17
if {name!r} == "edge_mask":
    t._cuda.edge_mask(t.picture((1, 3, 5)), 0.1)
else:
    t._cuda.toeplitz_cg(*t.system((5, 5)), 1)
"""
    environment = os.environ | sanitized_environment()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
