"""The device path as a whole, on the CPU: every launch through the shim, every transform and every wait counted."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="gpudeblur.numerics.cuda.source needs it; no GPU is needed")
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

from cuda_on_cpu import device
from laws import assert_close
from skimage.data import camera

import gpudeblur as gd
from gpudeblur.blind import rotation
from gpudeblur.blind.alternation import alternate
from gpudeblur.blind.kernel_projection import initial_kernel
from gpudeblur.blind.rotation_path import PathLevel, PathScale, random_controls
from gpudeblur.blind.schedule import Iteration, Scale
from gpudeblur.images.defects import find_defects
from gpudeblur.nonblind.final import FINALS
from gpudeblur.nonblind.methods.hyper_laplacian import hyper_laplacian
from gpudeblur.nonblind.specs import METHOD_SPECS
from gpudeblur.numerics import varying_blur
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.pose_paths import PosePath, bend_of
from gpudeblur.numerics.poses import PoseGrid, node_points
from gpudeblur.numerics.varying_blur import VaryingBlur, regular_nodes
from gpudeblur.synthesis import blur, trajectory_kernel

QUICK = gd.TwoStepOptions(iterations=2, kernel_iterations=5, starts=("wide",), finest_iterations=2)


cuda: Any
numerics_device: Any


@pytest.fixture
def cupy(cpu_kernel: Any) -> Iterator[Any]:
    """The stand-in; the modules that hold CuPy are imported anew for each test."""
    global cuda, numerics_device
    with device.installed(cpu_kernel) as cupy:
        from gpudeblur.numerics import cuda
        from gpudeblur.numerics import device as numerics_device

        yield cupy


def photos(n: int, size: int = 32) -> np.ndarray:
    sharp = camera()[100:, 180:] / 255
    return np.stack([
        blur(sharp[20 * i : 20 * i + size + 6, : size + 6], trajectory_kernel(7, rng=i)) for i in range(n)
    ]).astype(np.float32)  # fmt: skip


def check_alike(on_device: gd.BlindResult, on_host: gd.BlindResult, atol: float) -> None:
    assert on_device.info["backend"] == "cupy"
    assert_close(on_device.kernel, on_host.kernel, atol=atol)
    assert_close(on_device.image, on_host.image, atol=10 * atol)
    for name in ("confidence", "border_mass", "spectral_match", "energy", "gradient_gain", "agreement", "strength"):
        np.testing.assert_allclose(on_device.info[name], on_host.info[name], atol=100 * atol, err_msg=name)


@pytest.mark.slow
def test_the_defaults_on_a_device(cupy: Any) -> None:
    """All starts, judged, the best of them finished."""
    check_alike(gd.deblur(cupy.asarray(photos(2, 40)), 7), gd.deblur(photos(2, 40), 7), 2e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch the border:RuntimeWarning")
def test_the_size_of_the_kernel_is_found_on_a_device(cupy: Any) -> None:
    stack = photos(2, 44)
    options = dataclasses.replace(QUICK, starts=("text", "sparse"))
    on_device, on_host = (gd.deblur(u, options=options) for u in (cupy.asarray(stack), stack))
    assert on_device.kernel.shape == on_host.kernel.shape
    check_alike(on_device, on_host, 2e-5)


def test_colours_that_share_a_kernel_are_restored_on_a_device(cupy: Any) -> None:
    colours = np.stack([photos(2), photos(2)[::-1], photos(2) ** 2], axis=-1)
    on_device, on_host = (
        gd.deblur(u, 7, channel_axis=-1, options=QUICK, final="hyper-laplacian")
        for u in (cupy.asarray(colours), colours)
    )
    assert_close(on_device.image, on_host.image, atol=2e-4)


@pytest.mark.parametrize("final", ["sparse", "hyper-laplacian"])
def test_masks_on_a_device(cupy: Any, final: str) -> None:
    """Of two images one is valid everywhere; a mask in another memory is refused."""
    stack, masks = photos(2), np.ones((2, 32, 32), bool)
    masks[1, 8:12, 9:13] = masks[1, :, 20] = False
    spoiled = np.where(masks, stack, np.nan).astype(np.float32)
    on_host = gd.deblur(spoiled, 7, mask=masks, options=QUICK, final=final)
    for mask in (cupy.asarray(masks), "nan", cupy.asarray(masks)):  # computed, captured, replayed
        on_device = gd.deblur(cupy.asarray(spoiled), 7, mask=mask, options=QUICK, final=final)
        assert_close(on_device.kernel, on_host.kernel, atol=2e-5)
        assert_close(on_device.image, on_host.image, atol=2e-4)
        assert_close(on_device.info["residual"], on_host.info["residual"], atol=2e-5)
    with pytest.raises(TypeError, match="CuPy"):
        gd.deblur(cupy.asarray(spoiled), 7, mask=masks, options=QUICK, final=final)


def test_the_restoration_is_replayed_as_a_graph(cupy: Any) -> None:
    """From the second time on that a shape comes, other weights apart; pictures are all new."""
    numerics_device.clear()
    for number in range(4):
        stack, kernel = photos(2 + number)[number:], trajectory_kernel(7, rng=number).astype(np.float32)
        found = hyper_laplacian(cupy.asarray(stack), cupy.asarray(kernel), weight=1e-3 if number == 3 else 5e-4)
        expected = hyper_laplacian(stack, kernel, weight=1e-3 if number == 3 else 5e-4)
        assert_close(found, expected, atol=2e-4)
        assert cuda.launches["graph"] == min(number, 2)


def test_a_pass_of_the_restoration_is_two_launches_and_two_transforms(cupy: Any) -> None:
    """Nothing else touches memory: no allocation, no copy, no waiting. So, too, where colours share a kernel."""

    def costs(passes: int, picture: Any, kernel: Any) -> Counter[str]:
        numerics_device.state().clear()
        cuda.launches.clear()
        device.counts.clear()
        hyper_laplacian(picture, kernel, beta_max=2.0 ** (1.5 * (passes - 1)), **FINALS["hyper-laplacian"])
        return Counter({name: n for name, n in cuda.launches.items() if not name.startswith("cufft")}) + device.counts

    kernel = cupy.asarray(np.stack([trajectory_kernel(7, rng=i) for i in range(2)]).astype(np.float32))
    for lead, kernels in (((2,), kernel), ((2, 3), kernel[:, None])):
        picture = cupy.asarray(np.random.default_rng(0).random((*lead, 44, 44), np.float32))
        costs(1, picture, kernels)  # uploads what is uploaded once
        three, five = costs(3, picture, kernels), costs(5, picture, kernels)
        assert three["waits"] == five["waits"] == len(numerics_device.state().plans)  # for the tables of each new one
        five.subtract(three)
        pixels, bins = np.prod(lead) * 50 * 50, np.prod(lead) * 50 * 26
        tables = 4 * (50 + 50)  # of |F D|^2
        in_memory = 8 * pixels + (4 * pixels + 8 * bins) + (8 + 8 + 4) * bins + tables + (8 * bins + 4 * pixels)
        assert +five == {"dt_shrink": 2, "spectral_solve": 2, "transforms": 4, "bytes": 2 * in_memory}


@pytest.mark.slow
@pytest.mark.parametrize("shared_kernel", [False, True])
def test_starts_and_finest_scale_are_replayed_as_graphs(cupy: Any, shared_kernel: bool) -> None:
    """The third run of a shape is graphs alone, on pictures that the captured ones have never seen."""
    for number in range(3):
        stack = photos(2 + number)[number:]
        found = gd.estimate_kernel(cupy.asarray(stack), 7, options=QUICK, shared_kernel=shared_kernel)
        expected = gd.estimate_kernel(stack, 7, options=QUICK, shared_kernel=shared_kernel)
        assert_close(found, expected, atol=2e-5)
    assert cuda.launches["graph"] == 2 * 2


def costs(cupy: Any, iterations: int, options: gd.TwoStepOptions, cut: float) -> Counter[str]:
    """What the loop of one scale does: launches by name, transforms, bytes, allocations, waits, uploads."""
    picture = cupy.asarray(photos(2, 50))
    scale = Scale((7, 7), (50, 50), 1.0, (Iteration(0.01, 0.1, cut),) * iterations, 0.3, options.beta_max)
    kernel = initial_kernel((7, 7), 2, cupy, np.float32)
    numerics_device.state().clear()
    cuda.launches.clear()
    device.counts.clear()
    alternate(picture, kernel, scale, options, lambda _: None)
    return Counter({name: n for name, n in cuda.launches.items() if not name.startswith("cufft")}) + device.counts


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
    tables = 4 * (50 + 50)  # of |F D|^2
    in_memory = 8 * pixels + (4 * pixels + 8 * bins) + (8 + 8 + 4) * bins + tables + (8 * bins + 4 * pixels)
    assert +one_more == {"dt_l0": 1, "spectral_solve": 1, "transforms": 2, "bytes": in_memory}


def test_a_kernel_step_asks_for_no_memory_and_waits_for_nothing(cupy: Any) -> None:
    cost = per_iteration(cupy, beta_max=0.021)  # one pass
    launches = {"dt_l0", "spectral_solve", "data_terms", "selection_threshold", "dt_selected", "normal_spectra"}
    launches |= {"spectrum_max", "toeplitz_nnls", "normalize"}
    assert {name: cost.pop(name) for name in launches} == dict.fromkeys(launches, 1)
    assert cost.pop("kernel_to_grid") == 2  # of the kernel, of the lags
    assert cost.pop("central_lags") == 2
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
    assert (cost["edge_mask"], cost["dilate"], cost["gaussian_smooth"], cost["dt_smooth"]) == (1, 2, 2, 1)
    assert not cost["allocations"]
    assert not cost["waits"]
    assert not cost["uploads"]


# ---- what the host has to do
# All initializations and candidates, as by default; the counts depend neither on iterations nor on sizes.
ALL_STARTS = gd.TwoStepOptions(iterations=1, kernel_iterations=2, finest_iterations=1)


def counted(work: Any) -> Counter[str]:
    device.counts.clear()
    work()
    return Counter({name: device.counts[name] for name in (*device.counts, *device.activity)})


@pytest.mark.slow
def test_a_third_call_is_three_graphs_and_next_to_nothing_else(cupy: Any) -> None:
    """The bars of the host's share: `python bench/host_share.py` prints the figures for the defaults at full size."""
    image = cupy.asarray(photos(1)[0])
    for number in range(3):
        counts = counted(lambda: gd.deblur(image, 7, options=ALL_STARTS))
        assert counts["capture allocations"] == counts["capture plans"] == 0
        assert counts["graph launches"] == (3 if number else 0)
    assert counts["uploads"] <= 8
    assert counts["waits"] <= 6  # finite, full scale, border, saturated; streaks, as the image is dark; the result
    assert counts["launches"] <= 300
    assert counts["plans"] == 0


@pytest.mark.slow
def test_more_candidates_than_cupy_joins_without_the_host(cupy: Any) -> None:
    """All five starts taken through the finest scale in both ways are eleven candidates."""
    image, options = photos(1)[0], dataclasses.replace(ALL_STARTS, finest_candidates=5)
    expected = gd.estimate_kernel(image, 7, options=options)
    for _ in range(2):
        device.counts.clear()
        kernel = gd.estimate_kernel(cupy.asarray(image), 7, options=options)
        assert_close(kernel, expected, atol=2e-5)
    assert device.counts["graph launches"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("final", [name for name in FINALS if METHOD_SPECS[name].replayable])
def test_every_restoration_is_a_graph(cupy: Any, final: str) -> None:
    """Where light is clipped, too; the lamps themselves are looked for outside."""
    lamps = photos(1)[0]
    lamps[18:23, 18:23] = 1
    for picture in (photos(2), lamps):
        expected = gd.deblur(picture, 7, options=QUICK, final=final).image
        for _ in range(2):
            device.counts.clear()
            on_device = gd.deblur(cupy.asarray(picture), 7, options=QUICK, final=final)
            assert_close(on_device.image, expected, atol=2e-4)
        assert device.counts["graph launches"] == 3
        assert device.counts["launches"] <= 300


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name, spec in METHOD_SPECS.items() if not spec.network])
def test_a_known_kernel_is_a_graph_where_nothing_waits(cupy: Any, method: str) -> None:
    """Other pictures, kernels and noise of a shape launch the same graph, other numbers another one."""
    is_graph = METHOD_SPECS[method].replayable
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of captures that failed
        for number, iterations in enumerate((None, None, None, 3 if METHOD_SPECS[method].iterations else None)):
            stack, kernel = photos(3)[number % 2 :][:2], trajectory_kernel(7, rng=number).astype(np.float32)
            options: dict[str, Any] = {
                "method": method,
                "defects": None,
                "noise_sigma": np.array([0.01, 0.02 + 0.01 * number]),
                "iterations": iterations,
            }
            device.counts.clear()
            on_device = gd.deconvolve(cupy.asarray(stack), cupy.asarray(kernel), **options)
            assert_close(on_device, gd.deconvolve(stack, kernel, **options), atol=1e-3)
            if is_graph and iterations is None:
                assert device.counts["graph launches"] == (number > 0)
                assert device.counts["launches"] < 100 or number == 0


@pytest.mark.slow
def test_lamps_are_taken_out_on_a_device(cupy: Any) -> None:
    lamps = photos(1)[0] * np.float32(0.3)
    lamps[18:23, 18:23] = 1
    on_host = gd.deblur(lamps, 7, options=ALL_STARTS)
    for _ in range(2):
        check_alike(gd.deblur(cupy.asarray(lamps), 7, options=ALL_STARTS), on_host, 2e-5)


@pytest.mark.slow
def test_batch_after_batch_keeps_memory_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one leaves, plans and graphs among it, the next one uses. The CUDA kernels do nothing, to be quick."""
    from gpudeblur.batch import cuda_device, gpu, iterator

    # A reader that is slow for once must not split a group.
    monkeypatch.setattr(iterator, "GpuExecutor", functools.partial(gpu.GpuExecutor, timeout=1e6))
    options = gd.TwoStepOptions(iterations=1, kernel_iterations=1, finest_iterations=1, starts=("wide",), refine=False)
    how: dict[str, Any] = {"final": "hyper-laplacian", "options": options, "device": "cuda", "batch_size": 2}
    pictures = list(photos(2, 16))
    sizes = []

    def nothing(*_: Any, **__: Any) -> None:
        pass

    with device.installed(lambda _: nothing):
        for number in range(12):
            device.counts.clear()
            results = list(gd.deblur_batch(pictures, 3, **how))
            assert [r.error for r in results] == [None, None]
            if number >= 2:
                assert (device.counts["plans"], device.counts["graph launches"]) == (0, 3)
                sizes.append(device.memory.memory_info()[0])
        assert len(set(sizes)) == 1
        assert len(cuda_device._idle_devices) == 1


@pytest.mark.parametrize("method", ["sparse", "richardson-lucy"])
def test_a_field_of_kernels_on_a_device(cupy: Any, method: str) -> None:
    """Whole, in tiles, and with the host's memory as home; rows of cells all at once, which is no difference."""
    image, kernels = photos(1, 80)[0], np.stack([trajectory_kernel(7, rng=i) for i in range(6)]).reshape(2, 3, 7, 7)
    on_host, on_device = (gd.KernelField(xp.asarray(kernels), (80, 80)) for xp in (np, cupy))
    for dtype, atol in (("float64", 1e-9), ("float32", 2e-4)):
        options: dict[str, Any] = {"method": method, "dtype": dtype, "noise_sigma": 0.01}
        expected = gd.deconvolve(image, on_host, **options)
        assert_close(gd.deconvolve(cupy.asarray(image), on_device, **options), expected, atol=atol)
        assert_close(gd.deconvolve(image, on_host, device="cuda", **options), expected, atol=atol)
    if method == "sparse":
        tiled = gd.deconvolve(image, on_host, tile=64, **options)
        assert_close(gd.deconvolve(image, on_host, tile=64, device="cuda", **options), tiled, atol=2e-4)
    with pytest.raises(TypeError, match="arrays must be all NumPy or all CuPy"):
        gd.deconvolve(image, on_device)


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_a_field_blurs_by_launches(cupy: Any, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """A row of cells at a time or all at once, which is no difference, in as many launches as there are corners."""
    monkeypatch.setitem(varying_blur.CHUNK_PIXELS, False, chunk)
    for shape, counts, sides in (((40, 31), (4, 3), (5, 7)), ((9, 12), (1, 12), (3, 3)), ((3, 20), (2, 2), (9, 1))):
        random = np.random.default_rng(0)
        kernels = random.random((*counts, *sides), np.float32)
        nodes = regular_nodes(counts[0], shape[0]), regular_nodes(counts[1], shape[1])
        on_host, on_device = (VaryingBlur(xp.asarray(kernels), nodes, shape, np.float32) for xp in (np, cupy))
        x, y = random.random((2, *on_host.padded_shape), np.float32), random.random((2, *shape), np.float32)
        expected, adjoint = on_host.blur(x), on_host.adjoint(y)
        cuda.launches.clear()
        assert_close(on_device.blur(cupy.asarray(x)), expected, atol=1e-5 * expected.max())
        assert_close(on_device.adjoint(cupy.asarray(y)), adjoint, atol=1e-5 * adjoint.max())
        corners, chunks = np.prod(np.minimum(counts, 2)), max(1, counts[0] - 1) if chunk == 1 else 1
        assert cuda.launches["cells_cut"] == cuda.launches["cells_add"] == chunks * (1 + corners)
        with pytest.raises(ValueError, match="images must have shape"):
            on_device.blur(cupy.asarray(x[..., 1:]))


def test_poses_on_a_device(cupy: Any) -> None:
    """One launch each, without a stored matrix; in float64 there is one."""
    grid = PoseGrid((5, 7), 3, (60, 91), 80.0)
    points, random = node_points((2, 3), grid.shape), np.random.default_rng(0)
    weights, kernels = random.random((2, *grid.lattice), np.float32), random.random((2, 2, 3, 9, 9), np.float32)
    cuda.launches.clear()
    expanded = grid.expand(cupy.asarray(weights), points, (9, 9))
    assert_close(expanded, grid.expand(weights, points, (9, 9)), atol=1e-5)
    assert_close(grid.collect(cupy.asarray(kernels), points), grid.collect(kernels, points), atol=1e-5)
    active = np.flatnonzero(random.random(105) < 0.5)
    on_host, on_device = (grid.splatting(points, active=active, like=xp.empty(0, np.float32)) for xp in (np, cupy))
    flat = weights[0].reshape(-1)[active]
    assert_close(on_device.expand(cupy.asarray(flat)), on_host.expand(flat), atol=1e-5)
    few = kernels[0, ..., :5, :7].copy()
    assert_close(on_device.collect(cupy.asarray(few)), on_host.collect(few), atol=1e-5)
    middle = grid.splatting(points[0, 0], like=cupy.empty(0, np.float32)).expand(cupy.asarray(weights.reshape(2, -1)))
    assert_close(middle, grid.expand(weights, points[0, 0]), atol=1e-5)
    assert dict(cuda.launches) == {"pose_expand": 3, "pose_collect": 2}


@pytest.mark.parametrize("focal", [90.0, np.inf])
def test_weights_of_poses_on_a_device(cupy: Any, monkeypatch: pytest.MonkeyPatch, focal: float) -> None:
    """A pose step is one launch each of M and M^T and two transforms."""
    for name, value in (("ITERATIONS", 1), ("POSE_STEPS", 8)):
        monkeypatch.setattr(rotation, name, value)
    image, scale = photos(1, 90)[0], np.ones((), np.float32)
    path = PosePath(random_controls(5, 5)[0], bend_of(focal, (90, 90)))

    def weigh(xp: Any) -> rotation.PoseWeights:
        return rotation.weights_near(path, xp.asarray(image), (5, 5), xp.asarray(scale), QUICK)

    expected, weights = weigh(np), weigh(cupy)
    assert cuda.launches["pose_expand"] == cuda.launches["pose_collect"] == 1 + rotation.POWER_STEPS + 8
    assert_close(weights.weights, expected.weights, atol=1e-6)
    assert_close(weights.center_kernel(), expected.center_kernel(), atol=1e-6)
    assert_close(weights.field().kernels, expected.field().kernels, atol=1e-6)


def test_a_path_on_a_device(cupy: Any) -> None:
    """Latent steps run there, path steps on the host."""
    numbers = PathScale(0.5, 5, 1, (1e-3, 1e-3), 1)
    levels = [PathLevel(xp.asarray(photos(1, 90)[0]), (5, 5), 1.0, numbers) for xp in (np, cupy)]
    paths = [PosePath(control, 0.5) for control in random_controls(5, 5)[:2]]
    expected, found = (level.alternate(paths, False, QUICK) for level in levels)
    assert_close(levels[1].kernels(found), levels[0].kernels(expected), atol=0.02)
    assert_close(levels[1].scores(paths), levels[0].scores(paths), atol=1e-3)


# ---- pictures as they come
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [">f4", ">f8", "longdouble", ">u2", "uint8"])
def test_dtypes_that_no_device_has_come_back_as_they_were(cupy: Any, dtype: str) -> None:
    """Big-endian pictures are what FITS files hold."""
    image = photos(1)[0]
    image = (image * 255).astype(dtype) if np.dtype(dtype).kind == "u" else image.astype(dtype)
    if dtype == ">u2":
        image *= 257
    for function in (
        lambda **how: gd.deblur(image, 7, options=QUICK, **how).image,
        lambda **how: gd.deconvolve(image, trajectory_kernel(7, rng=0).astype(">f8"), **how),
        lambda **how: gd.deconvolve(image, trajectory_kernel(7, rng=0), tile=64, **how) if dtype == ">f4" else image,
    ):
        on_device, on_host = function(device="cuda"), function()
        assert type(on_device) is np.ndarray
        assert on_device.dtype == image.dtype
        scale = np.iinfo(dtype).max if image.dtype.kind == "u" else 1
        rounding = image.dtype.kind == "u"
        np.testing.assert_allclose(on_device.astype(float), on_host.astype(float), atol=2e-4 * scale + rounding)


@pytest.mark.slow
def test_a_kernel_too_large_for_one_block_is_solved_by_transforms_in_a_graph(cupy: Any, monkeypatch: Any) -> None:
    stack = photos(2)
    for solver in ("cg", "nnls"):
        options = dataclasses.replace(QUICK, kernel_solver=solver)
        expected = gd.estimate_kernel(stack, 7, options=options)
        monkeypatch.setattr(cuda, "toeplitz_fits", lambda *_: False)
        for _ in range(2):
            device.counts.clear()
            kernel = gd.estimate_kernel(cupy.asarray(stack), 7, options=options)
            assert_close(kernel, expected, atol=1e-4)
        assert device.counts["graph launches"] == 2
        assert not cuda.launches[f"toeplitz_{solver}"]


def test_sides_with_a_large_prime_factor(cupy: Any) -> None:
    """cuFFT launches work of its own while it plans for them, which a capture does not survive."""
    u = np.random.default_rng(0).random((131, 12), np.float32)
    kernel = trajectory_kernel(7, rng=0).astype(np.float32)
    expected = hyper_laplacian(u, kernel, weight=1e-3, boundary="wrap")
    for _ in range(3):
        sharp = hyper_laplacian(cupy.asarray(u), cupy.asarray(kernel), weight=1e-3, boundary="wrap")
        assert_close(sharp, expected, atol=2e-4)
    assert device.counts["graph launches"] == 2
    assert device.counts["capture plans"] == 0


def test_a_weight_a_picture_is_no_reason_to_wait(cupy: Any) -> None:
    u, kernel = photos(3), trajectory_kernel(7, rng=0).astype(np.float32)
    weight = np.array([1e-3, 2e-3, 4e-3], np.float32)
    for method in (gd.nonblind.hyper_laplacian, gd.nonblind.tv, gd.nonblind.l0):
        expected = method(u, kernel, weight=weight, boundary="liu-jia")
        arrays = [cupy.asarray(array) for array in (u, kernel, weight)]
        sharp = method(arrays[0], arrays[1], weight=arrays[2], boundary="liu-jia")
        assert_close(sharp, expected, atol=2e-4)


@dataclasses.dataclass(frozen=True)
class Product:
    """A prior of a user's, by a matrix product, which cuBLAS does not do while a stream is captured."""

    weight: float = 1e-3

    def step(self, latent: Any, ratio: float) -> Any:
        return latent @ latent.swapaxes(-1, -2) @ latent


@pytest.mark.slow
def test_a_prior_that_no_graph_can_hold_is_told_of_once(cupy: Any) -> None:
    import warnings

    options = dataclasses.replace(QUICK, prior=Product())
    image = photos(1)[0]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(4):
            gd.estimate_kernel(cupy.asarray(image), 7, options=options)
    assert len(said) == 1
    assert "CUDA graph not captured, launching one by one instead: calling cuBLAS" in str(said[0].message)


def test_tiles_count_the_memory_that_the_pool_holds_free(cupy: Any) -> None:
    from gpudeblur.nonblind.tiles import _tile_that_fits

    picture = cupy.zeros((600, 600), dtype=np.float32)
    device.memory.card.total = device.memory.card.allocated + (60 << 20)
    free = _tile_that_fits(picture, (9, 9), 64, "tv", cupy, None)
    held = cupy.zeros((14 << 20,), dtype=np.float32)
    del held  # to the pool
    assert _tile_that_fits(picture, (9, 9), 64, "tv", cupy, None) == free


@pytest.mark.slow
def test_bursts_in_a_batch_on_a_device(cupy: Any) -> None:
    """In color, as arrays of the device and of the host; the initial kernel is on the device."""
    bursts, kernel = [np.stack([photos(2, 24)] * 3, axis=-1), photos(1, 24)[..., None]], trajectory_kernel(7, rng=3)
    pictures = [cupy.asarray(bursts[0]), bursts[1]]
    small: dict[str, Any] = {
        "iterations": 1,
        "kernel_iterations": 2,
        "finest_iterations": 1,
        "beta_max": 0.1,
        "finest_beta_max": 0.1,
    }
    options = gd.TwoStepOptions(**small, refine=False, starts=("wide", "compact"))
    how: dict[str, Any] = {"channel_axis": -1, "shared_kernel": True, "options": options, "final": "hyper-laplacian"}
    batch = gd.deblur_batch(pictures, initial=cupy.asarray(kernel), device="cuda", **how)
    for result, picture, burst in zip(batch, pictures, bursts, strict=True):
        assert result.error is None
        assert type(result.image) is type(picture)
        alone = gd.deblur(burst, initial=kernel, **how)
        assert_close(result.kernel, alone.kernel, atol=2e-5)
        assert_close(result.image, alone.image, atol=2e-4)
        np.testing.assert_allclose(result.info["confidence"], alone.info["confidence"], atol=2e-3)


# ---- a device that fails
def test_pictures_made_on_another_stream_are_waited_for(cupy: Any) -> None:
    with cupy.cuda.Stream(non_blocking=True):
        pictures = [cupy.asarray(picture) * 1 for picture in photos(2)]
        batch = gd.deblur_batch(pictures, 7, options=QUICK, final=None)
    assert [r.error for r in batch] == [None, None]


@pytest.mark.slow
def test_two_threads_on_two_streams(cupy: Any) -> None:
    """Graphs and plans are each thread's own, constants both's; the device sees no unordered access."""
    import threading

    stack = photos(2)
    expected = gd.estimate_kernel(stack, 7, options=QUICK)
    kernels: list[np.ndarray] = []

    def work() -> None:
        with cupy.cuda.Stream(non_blocking=True):
            image = cupy.asarray(stack)
            kernels.extend(to_host(gd.estimate_kernel(image, 7, options=QUICK)) for _ in range(2))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(kernels, [expected] * 4, atol=2e-5)


def test_a_device_that_is_lost_is_named(cupy: Any) -> None:
    image = cupy.asarray(photos(1)[0])
    device.lost = "unspecified launch failure"
    with pytest.raises(RuntimeError, match=r"does not answer as it should, CUDA says: .*unspecified launch failure"):
        gd.deblur(image, 7, options=QUICK)
    with pytest.raises(RuntimeError, match='refuses all further work of a process, or use device="cpu" there'):
        gd.deconvolve(photos(1)[0], trajectory_kernel(7, rng=0), device="cuda")


def test_a_batch_on_a_device_that_is_lost_already(cupy: Any) -> None:
    images = [cupy.asarray(photos(1)[0])]
    late = gd.deblur_batch(images, 7, options=QUICK)
    device.lost = "unspecified launch failure"
    with pytest.raises(RuntimeError, match="does not answer as it should"):
        list(late)
    with pytest.raises(RuntimeError, match="does not answer as it should"):
        gd.deblur_batch(images, 7, options=QUICK, device="cuda")


def test_a_batch_delivers_what_was_ready_when_the_device_was_lost(cupy: Any) -> None:
    """Each other picture has its own error, and the call ends."""
    images = photos(6)
    results = []
    batch = gd.deblur_batch(iter(images), 7, options=QUICK, final=None, device="cuda", batch_size=1)
    for result in batch:
        results.append(result)
        if len(results) == 1:
            device.lost = "unspecified launch failure"
    assert [r.index for r in results] == list(range(6))
    assert results[0].error is None
    errors = [r.error for r in results if r.error is not None]
    assert len(errors) >= 6 - 4  # what was in flight may have been ready
    for error in errors:
        assert isinstance(error, RuntimeError)
        assert "does not answer as it should" in str(error)


def test_a_device_without_memory_is_named(cupy: Any) -> None:
    image = cupy.asarray(photos(1)[0])
    device.memory.card.total = device.memory.card.allocated + (1 << 12)
    with pytest.raises(RuntimeError, match=r"is out of memory \(Out of memory .*; pass fewer or smaller") as why:
        gd.deblur(image, 7, options=QUICK)
    assert isinstance(why.value.__cause__, MemoryError)
    (result,) = gd.deblur_batch([photos(1)[0]], 7, options=QUICK, device="cuda")
    assert isinstance(result.error, RuntimeError)
    assert "is out of memory" in str(result.error)


def test_a_device_that_is_too_old_is_refused(cupy: Any, monkeypatch: Any) -> None:
    image = cupy.asarray(photos(1)[0])
    monkeypatch.setattr(device.Device, "compute_capability", "61")
    for picture, where in ((image, None), (photos(1)[0], "cuda")):
        with pytest.raises(RuntimeError, match=r"must have compute capability 7\.5 .*, got a GPU of NumPy with 6\.1"):
            gd.deblur(picture, 7, options=QUICK, device=where)
    assert gd.deblur(photos(1)[0], 7, options=QUICK, device="auto").info["backend"] == "numpy"


def test_defects_on_a_device(cupy: Any) -> None:
    """The same are found as on the host, and a clean stack is waited for once."""
    clean = photos(2, 96)
    spoiled = clean.copy()
    spoiled[0, :, 40] = 0
    spoiled[1, 20:28, 30:70] = np.tile([1, 0], (8, 20))
    spoiled[1, 60, 70] = 1
    images = cupy.asarray(clean)
    assert find_defects(images) is None
    before = device.counts["waits"]
    assert find_defects(images) is None
    assert device.counts["waits"] - before <= 1
    on_device, on_host = find_defects(cupy.asarray(spoiled)), find_defects(spoiled)
    assert on_device is not None
    assert on_host is not None
    assert on_device.names == on_host.names
    np.testing.assert_array_equal(to_host(on_device.valid), on_host.valid)
    with pytest.warns(UserWarning, match="dead column 40"):
        results = [gd.deblur(images, 7, options=QUICK) for images in (cupy.asarray(spoiled), spoiled)]
    assert_close(results[0].image, results[1].image, atol=2e-3)
