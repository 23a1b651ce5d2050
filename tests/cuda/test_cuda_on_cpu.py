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

pytest.importorskip("cupy", reason="gpudeblur.numerics.cuda imports it; no GPU is needed")
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

import laws
from cuda_on_cpu.build import SANITIZE, CpuKernel, PoisonedNumpy, build_all, sanitized_environment
from laws import KERNELS, bound, picture, spectra, system

from gpudeblur.blind import kernel_step, pyramid
from gpudeblur.images import noise
from gpudeblur.nonblind.methods.hyper_laplacian import dt_shrink
from gpudeblur.numerics import cuda as _cuda
from gpudeblur.numerics import filters, resample, toeplitz
from gpudeblur.numerics.poses import CudaSplatting, PoseGrid, node_points

ORDERS = (0,) if SANITIZE else (0, 1, 2, 3)
TWINS = laws.twins(borders=SANITIZE)
LARGE_SHARED = 227 << 10
values_alone = pytest.mark.skipif(SANITIZE, reason="about values; the twins have read and written the same places")


@pytest.fixture
def cuda(cpu_kernel: Any, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """`_cuda` on NumPy arrays."""
    monkeypatch.setattr(_cuda, "cupy", PoisonedNumpy())
    monkeypatch.setattr(_cuda, "_kernel", cpu_kernel)
    monkeypatch.setattr(_cuda, "_shared_limit", lambda: LARGE_SHARED)
    monkeypatch.setattr(_cuda.constants, "on_device", lambda make, *args: make(*args))
    return _cuda


@pytest.fixture
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A selection is by several blocks a picture, a launch a digit, as soon as there is a number."""
    monkeypatch.setattr(_cuda, "_ONE_BLOCK_ITEMS", 0)
    monkeypatch.setattr(_cuda, "_PART_ITEMS", 70)
    monkeypatch.setattr(_cuda, "_MAX_PARTS", 5)


@pytest.fixture(params=["one block", "many parts"])
def parts(request: pytest.FixtureRequest) -> None:
    if request.param == "many parts":
        request.getfixturevalue("many_parts")


def run(launch: Callable[..., Any], *args: Any) -> Any:
    """The launch's result, the same in every order of the threads; the arguments stay as they are."""
    results = []
    for CpuKernel.order in ORDERS:
        results.append(launch(*laws.copies(args)))
        for one, first in zip(laws.arrays(results[-1]), laws.arrays(results[0]), strict=True):
            if one.dtype == np.bool_:
                assert (one.view(np.uint8) < 2).all()
            np.testing.assert_array_equal(one, first)
    return results[0]


def check_neighbours(launch: Callable[..., Any], batch: np.ndarray, *args: Any) -> None:
    """A NaN picture in the middle of three leaves the others bit for bit what they are alone, and stays NaN."""
    batch = batch.copy()
    batch[1].flat[batch[1].size // 2] = np.nan
    out = run(launch, batch, *args)
    for i in (0, 2):
        np.testing.assert_array_equal(out[i], run(launch, batch[i], *args))
    if out.dtype.kind == "f":
        assert np.isnan(out[1]).any()


@pytest.mark.parametrize("launch", TWINS)
def test_twins(cuda: Any, launch: str) -> None:
    for twin in TWINS[launch]:
        twin.check(functools.partial(run, getattr(cuda, launch)))


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["select", "selection_threshold"])
@pytest.mark.usefixtures("many_parts")
def test_twins_of_many_parts(cuda: Any, launch: str) -> None:
    for twin in TWINS[launch][:: 1 if SANITIZE else 5]:
        twin.check(functools.partial(run, getattr(cuda, launch)))


def test_a_nan_picture_disturbs_no_other(cuda: Any) -> None:
    u, mask = picture((3, 9, 11)), np.random.default_rng(1).random((9, 11)) < 0.3
    check_neighbours(cuda.dt_l0, u, 0.1)
    check_neighbours(cuda.edge_mask, u, 0.1)
    check_neighbours(cuda.gaussian_smooth, u, 0.8)
    check_neighbours(lambda u: cuda.dt_smooth(u, np.broadcast_to(mask, u.shape)), u)
    check_neighbours(lambda u: cuda.dt_selected(u, 0.1, (1, 8, 2, 9)), u)
    check_neighbours(cuda.central_lags, u, 5, 6)
    check_neighbours(cuda.kernel_to_grid, u, (12, 13))
    rows, columns = laws.cells_of(9, 4), laws.cells_of(11, 5)
    check_neighbours(lambda u: cuda.cells_cut(u, rows, columns, (4, 5)), u)
    spans = laws.spans_of(rows, 9), laws.spans_of(columns, 11)
    blocks = picture((3, rows.shape[1], columns.shape[1], 4, 5))
    check_neighbours(
        lambda b: cuda.cells_add(b, rows, columns, *spans, np.empty((*b.shape[:-4], 9, 11), np.float32)), blocks
    )
    grid = PoseGrid((9, 11), 1, (20, 30), 40.0)
    tables, numbers = CudaSplatting.of(grid, node_points((1, 2), (20, 30)), (5, 5), None, np), (grid.step, grid.focal)
    tables_of = (tables.positions, tables.candidates, None, grid.lattice, (5, 5))
    check_neighbours(lambda w: cuda.pose_expand(w.reshape(*w.shape[:-2], -1), *tables_of, *numbers), u)
    check_neighbours(
        lambda k: cuda.pose_collect(k, tables.positions, None, grid.lattice, *numbers), picture((3, 2, 5, 5))
    )
    for axis in (0, 1):
        check_neighbours(cuda.resample, u, *laws.taps((9, 11)[axis], 5), axis)


def test_nan_is_what_it_is_in_the_twin(cuda: Any) -> None:
    u, (spectrum, *_) = picture((2, 35, 33)), spectra((3, 9, 70))
    u[0, 3, 4], u[1, 0, 0], spectrum[1, 3, 3] = np.nan, np.inf, np.nan
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(run(cuda.dt_l0, u, 0.1), filters.dt_l0(u, 0.1))
    out = run(cuda.spectrum_max, spectrum)
    np.testing.assert_array_equal(out, toeplitz.spectrum_max(spectrum))
    assert np.isnan(out[1])


def test_dt_shrink_of_nan(cuda: Any) -> None:
    """A difference that is NaN is shrunk to 0, as in the twin, and disturbs no other; an infinite one stays."""
    u = picture((3, 35, 33))
    u[1, 3, 4], u[1, 0, 0], u[1, 20, 20], u[1, 30, 30] = np.nan, np.inf, 3e30, -3e-40
    out = run(cuda.dt_shrink, u, 8.0)
    with np.errstate(invalid="ignore", over="ignore"):
        laws.assert_close(out[1], dt_shrink(u[1], 8.0), rtol=5e-7, atol=1e-6)
    for i in range(3):
        np.testing.assert_array_equal(out[i], run(cuda.dt_shrink, u[i], 8.0))


def test_dt_shrink_keeps_what_its_twin_keeps(cuda: Any) -> None:
    """Bit for bit up to the threshold; one float above it a gradient stays, nearly halved."""
    for beta in (1.0, 7.3, 181.0, 1e4):
        u = laws.at_the_threshold(beta)
        out = run(cuda.dt_shrink, u, beta)
        assert not out[0, :5].any()
        assert (abs(out[0, 6, 3::4]) > 1.9 * abs(u[0, 6, 3::4])).all()  # four halves
    steps = np.round(64 * picture((2, 70, 33))) / 64
    np.testing.assert_array_equal(run(cuda.dt_shrink, steps, 30.0) == 0, dt_shrink(steps, 30.0) == 0)


def test_a_nan_kernel_becomes_a_delta(cuda: Any) -> None:
    """Alone or between neighbours, bit for bit; the search for its parts ends."""
    delta = np.zeros((9, 7), np.float32)
    delta[4, 3] = 1
    kernels = laws.blobs((9, 7), 3)
    for value in (np.nan, np.inf, -np.inf):
        kernels[1] = kernels[0]
        kernels[1, 2, 2] = value
        for launch in (lambda k: cuda.project(k, 0.05, 0.03), cuda.normalize):
            out = run(launch, kernels)
            for i in (0, 2):
                np.testing.assert_array_equal(out[i], run(launch, kernels[i]))
            if np.isnan(value):
                np.testing.assert_array_equal(out[1], delta)


@pytest.mark.usefixtures("parts")
def test_voting_threshold_of_nan_and_of_little(cuda: Any) -> None:
    """NaN counts as the largest, as in NumPy's partition; what is under the smallest normal float never votes."""
    u, window = picture((3, 9, 11)), (1, 8, 2, 9)
    u[1, 4, 4], u[2] = np.nan, u[2] * 1e-20
    for count in (3,) if SANITIZE else (1, 3, 4, 20):
        out = run(cuda.selection_threshold, u, window, count)
        np.testing.assert_array_equal(out, kernel_step.selection_threshold(u, window, count))
        assert np.isnan(out[1]) == (count <= 3)  # the pixel's own gradient, and those of its left and upper neighbours
        assert out[2] == np.finfo(np.float32).tiny
        for i in range(3):
            np.testing.assert_array_equal(out[i], run(cuda.selection_threshold, u[i], window, count))


@pytest.mark.usefixtures("parts")
def test_select_of_nan(cuda: Any) -> None:
    """NaN of either sign, whatever the rank; the others are what they are alone."""
    values = laws.signed_values((4, 150))
    values[1, 3], values[2, 149] = np.nan, -np.float32(np.nan)
    for rank in (149,) if SANITIZE else (0, 70, 149):
        out = run(cuda.select, values, rank)
        assert np.isnan(out).tolist() == [False, True, True, False]
        for i in range(4):
            np.testing.assert_array_equal(out[i], run(cuda.select, values[i], rank))


def test_median(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`numpy.median`, the mean of the middle two and NaN included; on CuPy by one or two launches."""
    batches = [laws.signed_values(shape) for shape in ((3, 7), (3, 150), (2, 3, 1), (2, 2), (0, 5))]
    batches[1][1, 5] = np.nan
    with np.errstate(invalid="ignore", over="ignore"):
        for values in batches:
            laws.assert_same(noise.median(values), np.median(values, axis=-1))
        monkeypatch.setattr(noise, "goes_to_cuda", lambda values: True)
        for values, launches in zip(batches, (1, 2, 1, 2, 0), strict=True):
            before = cuda.launches.copy()
            laws.assert_same(noise.median(values), np.median(values, axis=-1))
            assert (cuda.launches - before)["select"] == launches


def test_the_pyramid_on_a_device_is_launches(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`resample` bit for bit, `enlarge_kernel` but for the order of its sums; two launches each."""
    shapes = [((3, 37, 31), (26, 22)), ((2, 3, 5, 64), (9, 40)), ((2, 7, 1), (3, 2)), ((5, 6), (5, 4))]
    sizes = [((3, 5, 5), (7, 7), 1.4), ((2, 2, 9, 33), (5, 47), 1.4), ((1, 5), (9, 3), 2.0), ((3, 3), (51, 3), 1.4)]
    shrunk = [resample.resample(picture(shape), target) for shape, target in shapes]
    enlarged = [pyramid.enlarge_kernel(picture(shape), factor, size) for shape, size, factor in sizes]
    for module in (pyramid, resample):
        monkeypatch.setattr(module, "goes_to_cuda", lambda u: True)
    before = cuda.launches.copy()
    for (shape, target), expected in zip(shapes, shrunk, strict=True):
        laws.assert_same(run(resample.resample, picture(shape), target), expected)
    for (shape, size, factor), expected in zip(sizes, enlarged, strict=True):
        laws.assert_close(run(pyramid.enlarge_kernel, picture(shape), factor, size), expected, rtol=1e-5, atol=1e-8)
    assert cuda.launches - before == {"resample": 2 * len(ORDERS) * (len(shapes) + len(sizes))}
    assert resample.resample(picture((0, 3, 4)), (2, 2)).shape == (0, 2, 2)


@pytest.mark.parametrize("size", [(5, 7), pytest.param((23, 18), marks=values_alone)])
def test_project_with_its_labels_in_global_memory(cuda: Any, monkeypatch: Any, size: tuple[int, int]) -> None:
    kernels = laws.blobs(size)
    in_shared = run(cuda.project, kernels, 0.05, 0.03)
    monkeypatch.setattr(_cuda, "_shared_limit", lambda: 1024)
    np.testing.assert_array_equal(run(cuda.project, kernels, 0.05, 0.03), in_shared)
    scratch = np.full((*kernels.shape, 2), 7, np.uint64)
    np.testing.assert_array_equal(cuda.project(kernels, 0.05, 0.03, scratch=scratch), in_shared)
    assert not (scratch == 7).all()


@values_alone
def test_project_labels_long_components(cuda: Any) -> None:
    """A spiral of one pixel's width has one component, however far its ends are from its first pixel."""
    spiral, (y, x), (dy, dx) = np.zeros((41, 41), np.float32), (0, 0), (0, 1)
    for length in [40, *(n for n in range(40, 0, -2) for _ in range(2))]:
        for _ in range(length):
            spiral[y, x] = 1
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    for kernel in (spiral, spiral[::-1].copy(), spiral.T.copy()):
        kernel = kernel.copy()
        kernel[np.argwhere(kernel)[-1][0], np.argwhere(kernel)[-1][1]] = 2  # no two masses alike
        out = run(cuda.project, kernel, 0.05, 0.9)
        assert (out > 0).sum() == (kernel > 0).sum()


@values_alone
def test_results_go_where_they_shall(cuda: Any) -> None:
    """`out` and `scratch` are used, hold the same bits as a fresh array, and are refused where they cannot be used."""
    u, mask, kernels = picture((2, 9, 11)), picture((2, 9, 11)) > 0.8, laws.blobs((5, 7), 2)
    data, split, _ = spectra((2, 9, 11))
    a, rhs, start, ridge = system((5, 7))
    window = (1, 8, 2, 9)
    calls: list[tuple[Any, ...]] = [
        (cuda.dt_l0, u, 0.1),
        (cuda.dt_shrink, u, 30.0),
        (cuda.edge_mask, u, 0.1),
        (cuda.dilate, mask, 2),
        (cuda.gaussian_smooth, u, 0.8),
        (cuda.dt_smooth, u, mask),
        (cuda.selection_threshold, u, window, 5),
        (cuda.dt_selected, u, 0.1, window),
        (cuda.select, u, 4),
        (cuda.resample, u, *laws.taps(9, 5), 0),
        (cuda.central_lags, u, 3, 4),
        (cuda.kernel_to_grid, kernels, (8, 9)),
        (cuda.spectrum_max, data),
        (cuda.normalize, kernels),
        (cuda.project, kernels, 0.05, 0.03),
        (cuda.toeplitz_cg, a, rhs, start, ridge, 3),
        (cuda.toeplitz_nnls, a, rhs, start, ridge, bound(a), 3),
    ]
    for launch, *args in calls:
        fresh = launch(*args)
        out = np.full_like(fresh, 1)
        assert launch(*args, out=out) is out
        np.testing.assert_array_equal(out, fresh)
        for bad in (fresh[..., :0], fresh.astype(np.complex128), np.stack([fresh, fresh], axis=-1)[..., 0]):
            with pytest.raises(ValueError, match=r"out must be a C-contiguous .* array of shape .*; leave it out"):
                launch(*args, out=bad)
    for launch, source in ((cuda.dilate, mask), (cuda.gaussian_smooth, u)):
        fresh, scratch = launch(source, 2), np.ones_like(source)
        np.testing.assert_array_equal(launch(source, 2, scratch=scratch), fresh)
        assert (scratch != 1).any()
        with pytest.raises(ValueError, match="scratch must not be an input"):
            launch(source, 2, scratch=source)
        np.testing.assert_array_equal(launch(source.copy(), 2, out=source, scratch=scratch), fresh)
    for launch in (cuda.dt_l0, cuda.dt_shrink, lambda u, t, out: cuda.dt_selected(u, t, window, out=out)):
        with pytest.raises(ValueError, match="out must not be an input"):
            launch(u, 0.1, out=u)
    with pytest.raises(ValueError, match="out must not be an input"):
        cuda.resample(u, *laws.taps(9, 9), 0, out=u)
    power = np.ones(split.shape, np.float32)
    assert cuda.data_terms(split, data, out=power)[1] is power


def test_what_works_in_place_does(cuda: Any) -> None:
    data, split, _ = spectra((2, 9, 11))
    blurred = data[..., ::-1, :].copy()
    found = cuda.normal_spectra(data, split, blurred, (9, 11))
    assert found[0] is data
    assert found[1] is split
    assert cuda.data_terms(data, blurred)[0] is data
    with pytest.raises(ValueError, match="otf must be C-contiguous, since its CUDA kernel writes in place"):
        cuda.data_terms(data[..., ::2], blurred[..., ::2])
    a, rhs, start, ridge = system((5, 7))
    for launch, numbers in ((cuda.toeplitz_cg, (ridge,)), (cuda.toeplitz_nnls, (ridge, bound(a)))):
        solution, held = launch(a, rhs, start, *numbers, 4), start.copy()
        np.testing.assert_array_equal(launch(a, rhs, held, *numbers, 4, out=held), solution)
    kernels = laws.blobs((5, 7))
    expected = cuda.normalize(kernels)
    assert cuda.normalize(kernels, out=kernels) is kernels
    np.testing.assert_array_equal(kernels, expected)


def test_spectral_solve_is_exact_at_the_far_end_of_a_long_axis(cuda: Any) -> None:
    """sin(pi i / H) for i close to H loses its digits in float32 unless the angle is folded."""
    shape = (4001, 2)
    data, split, power = spectra(shape)
    out = cuda.spectral_solve(data, split.copy(), power * 0, 1e4, shape)
    with np.errstate(all="ignore"):
        expected = filters.spectral_solve(data, split.copy(), power * 0, 1e4, shape)
    np.testing.assert_allclose(out[1:], expected[1:], rtol=1e-5)


def test_spectral_solve_is_in_place_for_colours_that_share_a_kernel_too(cuda: Any) -> None:
    data, split, power = spectra((2, 6, 8))
    assert cuda.spectral_solve(data, split, power, 1.0, (6, 8)) is split
    strided = np.repeat(spectra((2, 6, 8))[1], 2, axis=-1)[..., ::2]
    assert cuda.spectral_solve(data, strided, power, 1.0, (6, 8)) is strided
    np.testing.assert_array_equal(strided, split)
    expected = filters.spectral_solve(data, split.copy(), power[:1], 2.0, (6, 8))  # colours that share a kernel
    np.testing.assert_allclose(cuda.spectral_solve(data, split, power[:1], 2.0, (6, 8)), expected, rtol=1e-5)


def test_spectral_solve_with_a_weight_a_picture(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """(...) and (..., 1, 1), on either library what each picture is with its own weight; colours share a weight."""
    data, split, power = spectra((2, 3, 6, 8))
    weights = np.array([0.01, 100], np.float32)
    shaped = (weights[:, None], np.repeat(weights, 3).reshape(2, 3), weights.reshape(2, 1, 1, 1))
    for launched in (False, True):
        if launched:
            monkeypatch.setattr(filters, "goes_to_cuda", lambda *arrays: True)
        expected = [
            filters.spectral_solve(data[i], split[i].copy(), power[i], float(weights[i]), (6, 8)) for i in range(2)
        ]
        for weight in shaped:
            out = filters.spectral_solve(data, split.copy(), power, weight, (6, 8))
            np.testing.assert_allclose(out, expected, rtol=0 if launched else 1e-6)


def test_spectral_solve_of_nan(cuda: Any) -> None:
    data, split, power = spectra((3, 9, 11))
    split[1, 4, 4] = np.nan
    out = run(cuda.spectral_solve, data, split, power, 1.0, (9, 11))
    expected = [run(cuda.spectral_solve, data[i], split[i], power[i], 1.0, (9, 11)) for i in range(3)]
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(out).sum() == 1


@pytest.mark.parametrize("size", KERNELS)
def test_toeplitz_with_the_autocorrelation_in_global_memory(cuda: Any, monkeypatch: Any, size: tuple[int, int]) -> None:
    """The same operations, so the same bits as with it in shared memory."""
    a, rhs, start, ridge = system(size)
    calls: list[tuple[Any, ...]] = [(cuda.toeplitz_cg, a, rhs, start, ridge, 4)]
    calls.append((cuda.toeplitz_nnls, a, rhs, start, ridge, bound(a), 4))
    in_shared = [run(*call) for call in calls]
    monkeypatch.setattr(_cuda, "_shared_limit", lambda: _cuda._vectors_bytes(*size))
    for call, expected in zip(calls, in_shared, strict=True):
        np.testing.assert_array_equal(run(*call), expected)


@values_alone
def test_toeplitz_nnls_is_the_twin(cuda: Any) -> None:
    """To convergence, where the step no longer matters."""
    a, rhs, start, ridge = system((7, 5))
    out = cuda.toeplitz_nnls(a, rhs, start, ridge, bound(a), 300)
    expected = toeplitz.toeplitz_nnls(*laws.wide(a, rhs, start, ridge), 300)
    laws.assert_close(out, expected, atol=2e-5 * expected.max())
    assert (out == 0).any()
    assert (out > 0).any()


def test_toeplitz_with_more_strips_than_threads(cuda: Any) -> None:
    """65 columns of 17 strips are more than 1024 threads."""
    a, rhs, start, ridge = system((67, 65), n=1)
    expected = toeplitz.toeplitz_cg(*laws.wide(a, rhs, start, ridge), 1)
    laws.assert_close(cuda.toeplitz_cg(a, rhs, start, ridge, 1), expected, atol=2e-5 * abs(expected).max())


def test_toeplitz_of_nan_and_zero(cuda: Any) -> None:
    """A NaN system and a zero one in a batch: each is what it is alone."""
    a, rhs, start, ridge = system((5, 7), n=4)
    rhs[1, 2, 2] = np.nan
    for zero in (a, rhs, start, ridge):
        zero[2] = 0
    for launch, numbers in ((cuda.toeplitz_cg, (ridge,)), (cuda.toeplitz_nnls, (ridge, bound(a)))):
        out = run(launch, a, rhs, start, *numbers, 5)
        for i in range(4):
            np.testing.assert_array_equal(out[i], run(launch, a[i], rhs[i], start[i], *(x[i] for x in numbers), 5))
        assert np.isnan(out[1]).all()
        assert not out[2].any()


@values_alone
def test_cg_of_a_solved_system_stands_still(cuda: Any) -> None:
    a, _, start, ridge = system((5, 5))
    spectrum, grid = toeplitz.toeplitz_spectrum(a)
    rhs = (toeplitz.toeplitz_apply(spectrum, grid, start) + ridge[:, None, None] * start).astype(np.float32)
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
    calls: list[tuple[Any, ...]] = [(launch, u, 0.1) for launch in (cuda.dt_l0, cuda.edge_mask, cuda.gaussian_smooth)]
    calls += [(cuda.dt_shrink, u, 30.0), (cuda.dilate, u > 0.8, 1), (cuda.dt_smooth, u, u > 0.8)]
    for launch, *args in calls:
        np.testing.assert_array_equal(launch(*args), launch(*laws.copies(tuple(args))))


def test_launch_functions_refuse_what_their_kernels_would_misread(cuda: Any) -> None:
    """Another dtype or shape, and what lies outside."""
    u, (first, weights), (data, split, power) = picture((2, 4, 6)), laws.taps(4, 2), spectra((2, 4, 6))
    a, rhs, start, ridge = system((3, 3))
    of_rank = "rank must be from 0 to under the number of values, 6, got "
    outside = r"window must lie in the picture \(4, 6\), got \(top, bottom, left"
    refused: list[tuple[Any, ...]] = [
        (r"u must be float32 for its CUDA kernel, got float64; convert it", cuda.dt_l0, u.astype(np.float64), 0.1),
        (r"mask must be bool for its CUDA kernel, got float32", cuda.dilate, u, 1),
        (r"values must be float32 for its CUDA kernel, got float64", cuda.select, u.astype(np.float64), 0),
        (r"first must be int32 for its CUDA kernel, got int64", cuda.resample, u, first.astype(np.int64), weights, 0),
        (r"u must have at least two axes \(\.\.\., H, W\), got shape \(6,\)", cuda.edge_mask, u[0, 0], 0.1),
        (r"mask must have shape \(2, 4, 6\), got \(4, 6\); broadcast it first", cuda.dt_smooth, u, u[0] > 0),
        (
            r"dt_g must have shape \(2, 4, 4\), got \(2, 4, 5\)",
            cuda.spectral_solve,
            data,
            np.zeros((2, 4, 5), "F"),
            power,
            1.0,
            (4, 6),
        ),
        (r"data must have shape \(2, 4, 4\), got \(4, 4\)", cuda.spectral_solve, data[0], split, power, 1.0, (4, 6)),
        (r"first must have shape \(2,\), got \(1,\)", cuda.resample, u, first[:1], weights, 0),
        (r"bound must have shape \(2,\), got \(1,\)", cuda.toeplitz_nnls, a, rhs, start, ridge, ridge[:1], 1),
        (
            r"autocorrelation must have shape \(2, 5, 5\), got \(2, 3, 3\)",
            cuda.toeplitz_cg,
            a[:, :3, :3],
            rhs,
            start,
            ridge,
            1,
        ),
        (of_rank + "-1", cuda.select, u, -1),
        (of_rank + "6", cuda.select, u, 6),
        (r"rows and columns must be under the sides \(4, 6\), got \(4, 2\)", cuda.central_lags, u, 4, 2),
        (r"kernel must fit the grid \(3, 6\), got \(4, 6\); use a larger grid", cuda.kernel_to_grid, u, (3, 6)),
        ("out must be given with a scale", cuda.dt_smooth, u, u > 0.5, 0.3),
    ]
    for window in ((-1, 4, 0, 6), (0, 5, 0, 6), (0, 4, 0, 7)):
        refused += [(outside, cuda.selection_threshold, u, window, 1), (outside, cuda.dt_selected, u, 0.1, window)]
    for message, launch, *args in refused:
        with pytest.raises(TypeError if "for its CUDA kernel" in message else ValueError, match=message):
            launch(*args)


def test_launch_functions_of_a_varying_blur_refuse_likewise(cuda: Any) -> None:
    u, rows, columns = picture((2, 4, 6)), laws.cells_of(4, 3), laws.cells_of(6, 3)
    spans = laws.spans_of(rows, 4), laws.spans_of(columns, 6)
    blocks = np.zeros((2, rows.shape[1], columns.shape[1], 3, 3), np.float32)
    points, tables = np.zeros((2, 2), np.float32), np.zeros((2, 1, 2, 4), np.float32)
    weights, grid = np.zeros((1, 6), np.float32), ((1, 2, 3), (3, 3), 0.1, 9.0)
    refused: list[tuple[Any, ...]] = [
        ("cells must be int32 for its CUDA kernel", cuda.cells_cut, u, rows.astype(np.int64), columns, (3, 3)),
        (r"row_weights must have shape \(4,\), got \(6,\)", cuda.cells_cut, u, rows, columns, (3, 3), u[0, 0], u[0, 0]),
        (r"blocks must have shape ", cuda.cells_add, blocks[:, :, 1:], rows, columns, *spans, u),
        (r"column_spans must have shape \(2, 6\)", cuda.cells_add, blocks, rows, columns, spans[0], spans[0], u),
        (r"out must be C-contiguous", cuda.cells_add, blocks, rows, columns, *spans, u[..., ::-1]),
        (r"candidates must have shape \(2, 1, 2, 4\)", cuda.pose_expand, weights, points, tables[:1], None, *grid),
        (
            r"of all 6 poses without a `weight_index`, got 5",
            cuda.pose_expand,
            weights[:, :5],
            points,
            tables,
            None,
            *grid,
        ),
        (r"points must have shape \(2, 2\)", cuda.pose_expand, weights, points[:, :1], tables, None, *grid),
        (r"one for each of 2 points", cuda.pose_collect, u[:1], points, None, grid[0], *grid[2:]),
        (r"kernels must have at least 3 axes", cuda.pose_collect, u[0], points, None, grid[0], *grid[2:]),
    ]
    for message, launch, *args in refused:
        with pytest.raises(TypeError if "for its CUDA kernel" in message else ValueError, match=message):
            launch(*args)


@values_alone
def test_launches_are_counted(cuda: Any) -> None:
    before = cuda.launches.copy()
    cuda.dilate(np.zeros((2, 3, 4), bool), 1)
    cuda.dt_l0(picture((2, 3, 4)), 0.1)
    assert cuda.launches - before == {"dilate": 2, "dt_l0": 1}
    before = cuda.launches.copy()
    for ones in (_cuda._ONE_BLOCK_ITEMS, _cuda._ONE_BLOCK_ITEMS + 1):  # one block up to here, then a launch a digit
        assert cuda.select(np.ones((1, ones), np.float32), 5) == 1
    assert cuda.launches - before == {"select": 4}


# ---- what this file would not see without the shim's orders, or without the sanitizers
UNSYNCHRONIZED = {
    "dt_l0": ("__syncthreads();", ""),
    "dt_shrink": ("__syncthreads();  // both are complete", ""),
    "dilate": ("__syncthreads();", ""),
    "toeplitz_nnls": ("t = t_next;\n        __syncthreads();", "t = t_next;"),
    "toeplitz_cg": ("__syncthreads();  // the last call's partial results have been read", ""),
    "selection_threshold": ("bins[i] = 0;\n        __syncthreads();", "bins[i] = 0;"),
    "select": ("atomicExch(ticket, 0u);\n    __syncthreads();", "atomicExch(ticket, 0u);"),
    "project": ("if (!__syncthreads_or(changed)) break;", "if (!changed) break;"),
    "dt_l0__divergent": ("__syncthreads();", "if (threadIdx.x != 3) __syncthreads();"),
}
OVERRUNS = {
    "edge_mask": ("if (x >= w) return;", ""),  # beyond an array
    "toeplitz_cg": ("float* copy = memory + 4 * size;", "float* copy = memory + 4 * size + 1;"),  # or shared memory
}


def build_broken(edits: dict[str, tuple[str, str]], folder: Path) -> dict[str, CpuKernel]:
    """CUDA kernels with a text replaced, by name."""
    sources = {}
    for key, (old, new) in edits.items():
        source = _cuda.source(key.partition("__")[0])
        assert source.count(old), old
        sources[key] = source.replace(old, new)
    return build_all(sources, folder, sanitize=SANITIZE)


@pytest.fixture(scope="module")
def unsynchronized(build_folder: Path) -> dict[str, CpuKernel]:
    return build_broken(UNSYNCHRONIZED, build_folder)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="about the order of threads, not about memory")
@pytest.mark.parametrize("name", list(UNSYNCHRONIZED)[:-1])
@pytest.mark.usefixtures("many_parts")
def test_a_missing_barrier_shows(cuda: Any, monkeypatch: Any, unsynchronized: Any, name: str) -> None:
    """Without this barrier the result depends on the order of the threads."""
    monkeypatch.setattr(_cuda, "_kernel", unsynchronized.get)
    a, rhs, start, ridge = system((13, 9))
    calls: dict[str, tuple[Any, ...]] = {
        "dt_l0": (cuda.dt_l0, picture((1, 37, 31)), 0.1),
        "dt_shrink": (cuda.dt_shrink, picture((1, 37, 31)), 30.0),
        "dilate": (cuda.dilate, picture((1, 37, 31)) > 0.8, 2),
        "selection_threshold": (cuda.selection_threshold, picture((1, 37, 31)), (0, 37, 0, 31), 100),
        "select": (cuda.select, laws.signed_values((1, 500)), 100),
        "project": (cuda.project, laws.blobs((13, 9)), 0.05, 0.03),
        "toeplitz_nnls": (cuda.toeplitz_nnls, a, rhs, start, ridge, bound(a), 3),
        "toeplitz_cg": (cuda.toeplitz_cg, a, rhs, start, ridge, 3),
    }
    with pytest.raises(AssertionError):
        run(*calls[name])


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="about the order of threads, not about memory")
def test_a_barrier_that_some_threads_miss_is_an_error(cuda: Any, monkeypatch: Any, unsynchronized: Any) -> None:
    monkeypatch.setattr(_cuda, "_kernel", lambda _: unsynchronized["dt_l0__divergent"])
    for _ in range(2):  # the fibers that wait are none of the next launch
        with pytest.raises(AssertionError, match="a barrier is not reached by every thread"):
            cuda.dt_l0(picture((1, 37, 31)), 0.1)


def test_the_shim_refuses_a_wrong_argument(cpu_kernel: Any) -> None:
    u = picture((1, 4, 4))
    good = (u, np.uintp(0), np.float32(0.1), np.empty_like(u), np.int32(4), np.int32(4))
    cpu_kernel("dt_l0")((1,), (32, 8), good)
    for i, wrong in ((0, u.astype(np.float64)), (2, 0.1), (2, np.float64(0.1)), (4, 4), (4, np.int64(4))):
        with pytest.raises((AssertionError, KeyError)):
            cpu_kernel("dt_l0")((1,), (32, 8), (*good[:i], wrong, *good[i + 1 :]))


def sanitized(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | sanitized_environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="this is the run that the test starts")
def test_under_sanitizers(build_folder: Path) -> None:
    """This file again, every kernel built with the address and undefined-behaviour sanitizers."""
    done = sanitized("-m", "pytest", "-q", "-x", "-o", f"cache_dir={build_folder}", __file__)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="starts sanitized runs itself")
@pytest.mark.parametrize("name", OVERRUNS)
def test_an_overrun_shows_under_sanitizers(build_folder: Path, name: str) -> None:
    done = sanitized(__file__, name, str(build_folder))
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


if __name__ == "__main__":  # of the last test
    _cuda._kernel = build_broken(OVERRUNS, Path(sys.argv[2])).__getitem__
    _cuda.cupy, _cuda._shared_limit = np, lambda: 1 << 17
    if sys.argv[1] == "edge_mask":
        _cuda.edge_mask(picture((1, 3, 5)), 0.1)
    else:
        a, rhs, start, ridge = system((5, 5))
        _cuda.toeplitz_cg(a, rhs, start, ridge, 1)
