"""Rung 4: every launch function on a device against its NumPy twin, and what only a device can show."""

from __future__ import annotations

from typing import Any

import laws
import numpy as np
import pytest
from laws import assert_batch_is_loop, assert_close, assert_same, bound, picture, system

from gpudeblur.blind import kernel_projection, kernel_step, pyramid
from gpudeblur.images import noise
from gpudeblur.nonblind.methods.hyper_laplacian import dt_shrink
from gpudeblur.numerics import filters, resample, toeplitz, varying_blur
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.fourier import rfft2
from gpudeblur.numerics.poses import PoseGrid, node_points
from gpudeblur.numerics.varying_blur import VaryingBlur, regular_nodes

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda(cupy: Any) -> Any:
    from gpudeblur.numerics import cuda as _cuda

    return _cuda


def on_device(cupy: Any, *args: Any) -> list[Any]:
    return [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]


@pytest.mark.parametrize("launch", laws.twins())
def test_twins(cupy: Any, cuda: Any, launch: str) -> None:
    for twin in laws.twins()[launch]:
        twin.check(getattr(cuda, launch), *on_device(cupy, *twin.args))


def test_pictures_of_many_blocks(cupy: Any, cuda: Any) -> None:
    """Large, odd, rectangular, batched, not contiguous."""
    host = picture((3, 1021, 1534))[..., ::2]
    mask = host > 1.05
    u, m = on_device(cupy, host, mask)
    strided = cupy.asarray(picture((3, 1021, 1534)))[..., ::2]
    assert not strided.flags.c_contiguous
    assert_same(cuda.dt_l0(strided, 0.1), filters.dt_l0(host, 0.1))
    assert_same(cuda.dt_l0(u, 0.1), filters.dt_l0(host, 0.1))
    assert_close(cuda.dt_shrink(u, 30.0), dt_shrink(host, 30.0), atol=1e-6)
    assert_same(cuda.dt_shrink(strided, 30.0), cuda.dt_shrink(u, 30.0))
    assert_same(cuda.edge_mask(u, 0.1), filters.edge_mask(host, 0.1))
    assert_same(cuda.dilate(m, 13), filters.dilate(mask, 13))
    assert_same(cuda.dt_smooth(u, m), filters.dt_smooth(host, mask))
    assert_close(cuda.gaussian_smooth(u, 1.3), filters.gaussian_smooth(host, 1.3), rtol=2e-6)
    data, split, power = laws.spectra((2, 1021, 766))
    out = cuda.spectral_solve(*on_device(cupy, data, split, power), 3.0, (1021, 766))
    assert_close(out, filters.spectral_solve(data, split, power, 3.0, (1021, 766)), rtol=5e-6, atol=1e-13)


@pytest.mark.parametrize("size", [(31, 31), (51, 37), (75, 75), (1, 119)])
def test_kernels_of_real_sizes(cupy: Any, cuda: Any, size: tuple[int, int]) -> None:
    """Above 48 KB a block must ask for its shared memory, above 64 KB some devices have none; then it must say so."""
    a, rhs, start, ridge = system(size)
    args = on_device(cupy, a, rhs, start, ridge)
    if not cuda.toeplitz_fits(*size):
        with pytest.raises(ValueError, match="use the FFT form of kernel_step"):
            cuda.toeplitz_cg(*args, 1)
        return
    expected = toeplitz.toeplitz_cg(*laws.wide(a, rhs, start, ridge), 5)
    assert_close(cuda.toeplitz_cg(*args, 5), expected, atol=1e-4 * abs(expected).max())
    norm = bound(a)
    expected = laws.projected_gradients(a, rhs, start, ridge, norm, 5)
    assert_close(cuda.toeplitz_nnls(*args, cupy.asarray(norm), 5), expected, atol=1e-4 * abs(expected).max())


def test_the_autocorrelation_in_global_memory(cupy: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, rhs, start, ridge = on_device(cupy, *system((13, 9)))
    in_shared = cuda.toeplitz_cg(a, rhs, start, ridge, 5)
    monkeypatch.setattr(cuda, "_shared_limit", lambda: cuda._vectors_bytes(13, 9))
    assert_close(cuda.toeplitz_cg(a, rhs, start, ridge, 5), in_shared, rtol=1e-5, atol=1e-6)


def test_a_batch_equals_a_loop_and_a_run_its_repetition(cupy: Any, cuda: Any) -> None:
    a, rhs, start, ridge = system((21, 19), n=40)
    rhs[7] = np.nan
    args = on_device(cupy, a, rhs, start, ridge)
    norm = cupy.asarray(bound(a))
    assert_batch_is_loop(lambda *x: cuda.toeplitz_cg(*x, 20), *args)
    assert_batch_is_loop(lambda *x: cuda.toeplitz_nnls(*x, 60), *args, norm)
    assert_same(cuda.toeplitz_cg(*args, 20), cuda.toeplitz_cg(*args, 20))


def test_more_pictures_than_a_grid_has_layers(cupy: Any, cuda: Any) -> None:
    """65535 is the limit of every grid axis but the first."""
    host = picture((70001, 3, 2))
    u = cupy.asarray(host)
    assert_same(cuda.dt_l0(u, 0.1), filters.dt_l0(host, 0.1))
    assert_same(cuda.dilate(u > 0.9, 1), filters.dilate(host > 0.9, 1))
    assert_close(cuda.gaussian_smooth(u, 0.6), filters.gaussian_smooth(host, 0.6), rtol=2e-6)
    a, rhs, start, ridge = (np.repeat(x, 35001, axis=0) for x in system((3, 3)))
    out = cuda.toeplitz_cg(*on_device(cupy, a, rhs, start, ridge), 3)
    assert_same(out[-1], out[35001])


def test_more_pixels_than_32_bits_count(cupy: Any, cuda: Any) -> None:
    n, side = 130, 4096  # 2^31 and two pictures
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < 30 << 30:
        pytest.skip("needs 30 GB of free device memory")
    one = cupy.asarray(picture((side, side)))
    u = cupy.zeros((n, side, side), dtype=cupy.float32)
    u[-1] = one
    assert_same(cuda.dt_l0(u, 0.1)[-1], cuda.dt_l0(one, 0.1))
    cupy.get_default_memory_pool().free_all_blocks()
    mask = cuda.edge_mask(u, 0.1)
    assert_same(mask[-1], cuda.edge_mask(one, 0.1))
    assert_same(cuda.dilate(mask, 3)[-1], cuda.dilate(mask[-1], 3))
    del mask
    assert_same(cuda.dt_smooth(u, u > 0.9)[-1], cuda.dt_smooth(one, one > 0.9))
    cupy.get_default_memory_pool().free_all_blocks()
    cells = cupy.asarray(np.array([[0, 2048], [0, 2048], [2048, 4096]], np.int32))
    spans = cupy.asarray(np.repeat([[0, 1], [1, 2]], 2048, axis=1).astype(np.int32))
    blocks = cuda.cells_cut(u, cells, cells, (2048, 2048))
    u[...] = 0
    assert_same(cuda.cells_add(blocks, cells, cells, spans, spans, u)[-1], one)


def test_launches_follow_the_current_stream(cupy: Any, cuda: Any) -> None:
    host = picture((4, 501, 503))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        u = cupy.asarray(host)
        for _ in range(50):
            u = cuda.dt_l0(u, 0.0)
            u *= 0.1
        out = u
    stream.synchronize()
    expected = host
    for _ in range(50):
        expected = filters.dt_l0(expected, 0.0) * np.float32(0.1)
    assert_close(out, expected, rtol=1e-5, atol=1e-30)


def test_filters_dispatch_to_the_launches(cupy: Any, cuda: Any) -> None:
    u = cupy.asarray(picture((2, 9, 11)))
    before = cuda.launches.copy()
    mask = filters.dilate(filters.edge_mask(u, 0.1), 2)
    filters.dt_smooth(filters.gaussian_smooth(u, 0.5), mask)
    filters.dt_l0(u, cupy.asarray([0.1, 0.2]))
    filters.dt_l0(u, cupy.asarray(0.1))
    data, split, power = on_device(cupy, *laws.spectra((2, 9, 11)))
    filters.spectral_solve(data, split, power, 1.0, (9, 11))
    filters.data_terms(data, split)
    counted = {"edge_mask": 1, "dilate": 2, "gaussian_smooth": 2, "dt_smooth": 1, "dt_l0": 2, "spectral_solve": 1}
    counted["data_terms"] = 1
    assert cuda.launches - before == counted
    filters.dt_l0(u.astype(cupy.float64), 0.1)  # takes the NumPy form
    assert cuda.launches - before == counted


def test_a_kernel_step_is_launches_and_transforms(cupy: Any, cuda: Any) -> None:
    """What of the kernel step is not a launch of ours is a transform, or a number a picture."""
    latent = cupy.asarray(picture((2, 60, 70)))
    window, blurred_hat = kernel_step.selection_window((50, 60), (9, 7)), rfft2(latent)
    before = cuda.launches.copy()
    votes = kernel_step.select_edges(latent, window, 0.2)
    a, b = kernel_step.normal_equations(votes, latent, blurred_hat, (9, 7))
    kernel = toeplitz.toeplitz_nnls(a, b, cupy.zeros_like(b), 0.1, 10)
    kernel_projection.project(kernel_projection.normalize(kernel), share=0.05, component=0.03)
    counted = {"selection_threshold": 1, "dt_selected": 1, "normal_spectra": 1, "central_lags": 2, "kernel_to_grid": 1}
    counted |= {"spectrum_max": 1, "toeplitz_nnls": 1, "normalize": 1, "project": 1, "cufft_r2c": 3, "cufft_c2r": 2}
    assert cuda.launches - before == counted


def test_dt_shrink_keeps_what_its_twin_keeps(cupy: Any, cuda: Any) -> None:
    for beta in np.geomspace(0.5, 1e5, 50).tolist():
        u = laws.at_the_threshold(beta)
        out = cuda.dt_shrink(cupy.asarray(u), beta).get()
        assert not out[0, :5].any()
        assert (abs(out[0, 6, 3::4]) > 1.9 * abs(u[0, 6, 3::4])).all()


def test_kernels_and_pictures_of_real_sizes(cupy: Any, cuda: Any) -> None:
    host = picture((2, 1021, 766))
    u, window = cupy.asarray(host), (20, 1001, 19, 740)
    pixels = kernel_step.window_pixels(window)
    for count in (1, pixels // 50, pixels):
        threshold = kernel_step.selection_threshold(host, window, count)
        assert_same(cuda.selection_threshold(u, window, count), threshold)
        assert_same(
            cuda.dt_selected(u, cupy.asarray(threshold), window), kernel_step.dt_selected(host, threshold, window)
        )
    for number in (1000, 1 << 17, 1_000_003):  # one block, and many
        values = laws.signed_values((3, number))
        values[1, number // 2] = np.nan
        for rank in (0, number // 2, number - 1):
            expected = np.where([False, True, False], np.nan, np.partition(values, rank, axis=-1)[:, rank])
            assert_same(cuda.select(cupy.asarray(values), rank), expected.astype(np.float32))
    # Shared memory by default; 48 KB but for the static part; by asking; global memory.
    for size in ((31, 31), (55, 55), (75, 61), (151, 141)):
        kernels = laws.blobs(size, 6)
        expected = kernel_projection.project(kernels, share=0.05, component=0.03)
        out = cuda.project(cupy.asarray(kernels), 0.05, 0.03)
        assert_same(out.get() > 0, expected > 0)  # the same decisions
        assert_close(out, expected, rtol=1e-5)


@pytest.mark.parametrize("focal", [1200.0, np.inf])
def test_poses_of_real_sizes(cupy: Any, cuda: Any, focal: float) -> None:
    """The CUDA kernels are each other's adjoint, and the stored matrix of the twin; on a repetition, the same bits."""
    grid = PoseGrid.of((31, 31), (682, 1024), focal)
    points, random = node_points((3, 4), grid.shape), np.random.default_rng(0)
    active = np.flatnonzero(random.random(grid.lattice) < 0.3)
    splattings = [grid.splatting(points, (37, 37), active=active, like=xp.empty(0, np.float32)) for xp in (np, cupy)]
    weights, kernels = random.random((2, len(active)), np.float32), random.random((2, 3, 4, 37, 37), np.float32)
    before = cuda.launches.copy()
    (expected, collected), (expanded, gathered) = (
        (splatting.expand(xp.asarray(weights)), splatting.collect(xp.asarray(kernels)))
        for splatting, xp in zip(splattings, (np, cupy), strict=True)
    )
    assert cuda.launches - before == {"pose_expand": 1, "pose_collect": 1}
    assert_close(expanded, expected, atol=1e-5 * expected.max())
    assert_close(gathered, collected, atol=1e-5 * collected.max())
    left, right = (
        laws.inner(to_host(expanded).astype(float), kernels),
        laws.inner(to_host(gathered).astype(float), weights),
    )
    assert left == pytest.approx(right, rel=1e-5)
    assert_same(splattings[1].expand(cupy.asarray(weights)), expanded)
    assert_batch_is_loop(splattings[1].expand, cupy.asarray(weights))
    assert_batch_is_loop(splattings[1].collect, cupy.asarray(kernels))


def test_a_varying_blur_of_real_size(cupy: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against NumPy, whatever the rows of cells at a time."""
    shape, random = (701, 523), np.random.default_rng(0)
    kernels, nodes = random.random((7, 5, 15, 21), np.float32), (regular_nodes(7, 701), regular_nodes(5, 523))
    on_host, on_device = (VaryingBlur(xp.asarray(kernels), nodes, shape, np.float32) for xp in (np, cupy))
    x, y = random.random((2, *on_host.padded_shape), np.float32), random.random((2, *shape), np.float32)
    pairs = ((on_host.blur(x), on_device.blur, x), (on_host.adjoint(y), on_device.adjoint, y))
    for expected, function, host in pairs:
        u = cupy.asarray(host)
        whole = function(u)
        assert_close(whole, expected, atol=1e-5 * expected.max())
        assert_batch_is_loop(function, u)
        monkeypatch.setitem(varying_blur.CHUNK_PIXELS, False, 1)
        assert_close(function(u), whole, atol=1e-6 * expected.max())
        monkeypatch.undo()
    assert cuda.launches["cells_cut"]


def test_selections_of_large_pictures_equal_a_loop(cupy: Any, cuda: Any) -> None:
    """Many blocks a picture and a launch a digit; the batch does not matter, nor does a repetition."""
    u = cupy.asarray(picture((3, 600, 801)))
    u[1, 5, 5] = np.nan
    before = cuda.launches.copy()
    for _ in range(3):
        assert_batch_is_loop(lambda x: kernel_step.selection_threshold(x, (9, 590, 9, 790), 5000), u)
        assert_batch_is_loop(lambda x: cuda.select(x.reshape(*x.shape[:-2], -1), 1000), u)
    assert cuda.launches - before == {"selection_threshold": 36, "select": 36}


def test_the_median_is_numpys(cupy: Any) -> None:
    for size in (1, 2, 7, 64, 64516, 500_000):
        values = laws.picture((2, size)) - 1
        assert_same(noise.median(cupy.asarray(values)), noise.median(values))


def test_the_pyramid_is_numpys(cupy: Any) -> None:
    for shape, target in (((3, 255, 301), (180, 213)), ((2, 37, 31), (70, 5))):
        host = picture(shape)
        assert_same(resample.resample(cupy.asarray(host), target), resample.resample(host, target))
    kernel = picture((3, 19, 13))
    out = pyramid.enlarge_kernel(cupy.asarray(kernel), 1.4142, (27, 25))
    assert_close(out, pyramid.enlarge_kernel(kernel, 1.4142, (27, 25)), rtol=1e-5, atol=1e-8)
