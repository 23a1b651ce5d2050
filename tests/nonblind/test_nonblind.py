"""Restoration with a known kernel: laws of each method, and that it restores, also at the borders."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

from gpudeblur import nonblind
from gpudeblur.metrics import psnr
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind import final as finals
from gpudeblur.nonblind.final import FINALS, residual_mse, restore
from gpudeblur.nonblind.regularization import estimate_weight
from gpudeblur.nonblind.specs import METHOD_SPECS, UNSUPERVISED_WIENER
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, linear_kernel, trajectory_kernel

KERNEL = trajectory_kernel(11, rng=3)
METHOD_NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "epll" else name for name in sorted(METHODS)]
in_every_method = pytest.mark.parametrize("method", METHOD_NAMES)
PLAIN = {"wiener", "richardson-lucy"}  # a quadratic prior, and none
with_a_weight = pytest.mark.parametrize("method", [name for name in METHOD_NAMES if name != "richardson-lucy"])


SCENE = data.camera()[100:196, 200:310] / 255
TRUE = SCENE[5:-5, 5:-5]


def blurred_picture(noise: float = 2e-3, dtype: str = "float64") -> np.ndarray:
    """A photograph of `TRUE`, 86 x 100: the blur reaches in from the scene outside."""
    return blur(SCENE, KERNEL, noise_sigma=noise, rng=0).astype(dtype)


def boundary_options(method: str) -> list[dict[str, str]]:
    names = METHOD_SPECS[method].boundaries
    return [{"boundary": name} for name in names] if len(names) > 1 else [{}]


def small_weight(method: str, weight: float) -> dict[str, Any]:
    """Of the prior; "richardson-lucy" has none, and goes on until there is no noise.

    The levels of "pnp" fall with the sixth root of its weight.
    """
    return {"noise_sigma": 0.0} if method == "richardson-lucy" else {"weight": weight**3 if method == "pnp" else weight}


def frame(shape: tuple[int, int], width: int) -> np.ndarray:
    """The pixels at most `width` from the border."""
    border = np.ones(shape, dtype=bool)
    border[width:-width, width:-width] = False
    return border


# ---- the table


def test_the_table_is_complete() -> None:
    """Each row has the parameters of its function, and is a function of `gpudeblur.nonblind`."""
    specs = [*METHOD_SPECS.values(), UNSUPERVISED_WIENER]
    assert {*nonblind.__all__} == {spec.function.__name__ for spec in specs}
    for spec in specs:
        assert {*spec.parameter_names} == {*inspect.signature(spec.function).parameters} - {"blurred", "kernel"}
        assert spec.weight == ("weight" in spec.parameters)
        assert not spec.iterations or spec.iterations in spec.parameters


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tv", {"boundary": "mirror"}, "boundary must be one of 'unknown', 'liu-jia', .*, got 'mirror'"),
        ("wiener", {"boundary": "taper"}, "boundary must be one of 'unknown', 'reflect', 'edge', 'wrap', got 'taper'"),
        ("unsupervised_wiener", {"boundary": "unknown"}, "boundary must be one of 'reflect', 'edge', 'wrap', got 'unk"),
        ("wiener", {"prior": "l1"}, "prior must be one of 'gradient', 'laplacian', 'identity', got 'l1'"),
        ("hyper_laplacian", {"exponent": 1}, "exponent must be above 0 and below 1, .*, got 1; tv is 1, l0 is 0"),
        ("hyper_laplacian", {"exponent": 0}, "exponent must be above 0 and below 1, .*, got 0"),
        ("sparse", {"exponent": 2.5}, "exponent must be above 0 and at most 2, and finite, got 2.5"),
        ("epll", {"stride": 0}, "stride must be at least 1, got 0"),
        ("epll", {"stride": 9}, "stride must be from 1 to 8, the side of a patch, got 9"),
        ("unsupervised_wiener", {"max_num_iter": 16}, r"max_num_iter must be at least burnin \+ 2, got 16"),
    ],
)
def test_bad_options_are_refused(xp: Any, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(nonblind, name)(xp.ones((9, 9)), xp.ones((3, 3)), **options)


# ---- laws of every method


@in_every_method
@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("float32", (24, 30), (5, 3)), ("float64", (17, 21), (4, 6)), ("float32", (9, 8), (1, 1))],
)
def test_a_delta_returns_the_picture(
    xp: Any, method: str, dtype: str, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    """Whatever the boundary, but for the prior, which a small weight all but switches off."""
    u, kernel = xp.asarray(np.random.default_rng(0).random(shape).astype(dtype)), np.zeros(size, dtype)
    kernel[size[0] // 2, size[1] // 2] = 1
    for more in boundary_options(method):
        out = METHODS[method](u, xp.asarray(kernel), **small_weight(method, 1e-7), **more)
        assert out.dtype == dtype
        assert out.shape == shape
        assert_close(out, u, atol=1e-5 if method in PLAIN else 1e-3)


@in_every_method
def test_a_kernel_off_its_middle_moves_the_picture_back(xp: Any, method: str) -> None:
    kernel = np.zeros((5, 5))
    kernel[3, 4] = 1  # blurred = true, one row down and two columns right
    blurred = np.roll(TRUE, (1, 2), (0, 1))
    out = to_host(METHODS[method](xp.asarray(blurred), xp.asarray(kernel), **small_weight(method, 1e-7)))
    assert_close(out[3:-3, 3:-3], TRUE[3:-3, 3:-3], atol=1e-2)


SHAKES = [KERNEL, trajectory_kernel(11, rng=5), trajectory_kernel(11, rng=4)[:, 3:8]]
LINES = [linear_kernel(9, 60, 11), linear_kernel(9, 0, 11)[5:6]]


def gains(xp: Any, method: str, kernel: np.ndarray) -> tuple[float, float]:
    """PSNR gained inside and within 5 pixels of the borders, in decibels."""
    kernel = kernel / kernel.sum()
    rows, columns = (side // 2 for side in kernel.shape)
    true = SCENE[rows : 96 - rows, columns : 110 - columns]
    blurred = blur(SCENE, kernel, noise_sigma=2e-3, rng=0)
    out = to_host(METHODS[method](xp.asarray(blurred), xp.asarray(kernel)))
    border = frame(true.shape, 5)
    inside, at_border = (psnr(out[at], true[at]) - psnr(blurred[at], true[at]) for at in (~border, border))
    return inside, at_border


@in_every_method
@pytest.mark.parametrize("kernel", [SHAKES[0], *(pytest.param(k, marks=pytest.mark.slow) for k in SHAKES[1:])])
def test_a_known_kernel_restores_inside_and_at_the_borders(xp: Any, method: str, kernel: np.ndarray) -> None:
    inside, at_border = gains(xp, method, kernel)
    assert inside > 4
    assert at_border > 2


@pytest.mark.slow
@pytest.mark.parametrize("kernel", LINES)
def test_line_blurs_too(xp: Any, kernel: np.ndarray) -> None:
    """A line takes whole bands of frequencies away: the priors of the first five fill them, the others less."""
    for method in sorted(METHODS):
        inside, at_border = gains(xp, method, kernel)
        assert inside > (3 if method in PLAIN else 8)
        assert at_border > (0.5 if method in PLAIN else 5)


@with_a_weight
def test_the_weight_trades_noise_for_detail(xp: Any, method: str) -> None:
    """A larger weight leaves less gradient; on a noisy picture a middle one is the best."""
    noisy = blurred_picture(noise=0.02)
    mean_gradient, quality = [], []
    rule = METHOD_SPECS[method].weight_rule  # None for "wiener", whose most probable weight is about this
    default = float(estimate_weight(xp.asarray(noisy), xp.asarray(KERNEL), rule)) if rule else 0.03
    for factor in (1e-3, 1, 1e3):
        out = to_host(METHODS[method](xp.asarray(noisy), xp.asarray(KERNEL), weight=default * factor))
        mean_gradient.append(np.abs(np.diff(out)).mean())
        quality.append(psnr(out, TRUE))
    assert mean_gradient[0] > 1.5 * mean_gradient[1] > 1.5 * 1.5 * mean_gradient[2]
    assert quality[1] > max(quality[0], quality[2]) + 1


@in_every_method
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_picture_stays_constant(xp: Any, method: str, value: float) -> None:
    """Richardson-Lucy takes pixels outside that count with less than a thousandth (`MIN_OBSERVED`) to be black."""
    out = METHODS[method](xp.full((20, 25), value), xp.asarray(KERNEL))
    assert_close(out, np.full((), value), atol=1e-3 if method == "richardson-lucy" else 1e-5)


@in_every_method
def test_mirroring_picture_and_kernel_mirrors_the_result(xp: Any, method: str) -> None:
    """Forward differences and the wrap to the right and below favor no direction, but for rounding and the margin."""
    u = blurred_picture()[:86, :86]
    out = to_host(METHODS[method](xp.asarray(u), xp.asarray(KERNEL)))
    mirrored = METHODS[method](xp.asarray(u[::-1, ::-1].copy()), xp.asarray(KERNEL[::-1, ::-1].copy()))
    difference = np.abs(to_host(mirrored) - out[::-1, ::-1])
    assert difference.max() < (1e-8 if method == "sparse" else 2e-2 if method == "hyper-laplacian" else 0.1)
    assert np.sqrt((difference**2).mean()) < (0.02 if method == "l0" else 0.01)


@in_every_method
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, method: str, dtype: str) -> None:
    u = blurred_picture(dtype=dtype)[:24, :28]
    stack = np.stack([u, u[::-1], u, u.max() - u]).reshape(2, 2, 24, 28)
    stack[0, 1], stack[1, 0] = 0, 0.5
    stack[1, 0, 3, 4] = np.nan
    kernels = np.stack([KERNEL, KERNEL.T, KERNEL[::-1], KERNEL[:, ::-1]]).reshape(2, 2, 11, 11).astype(dtype)
    out = to_host(METHODS[method](xp.asarray(stack), xp.asarray(kernels)))
    for i in np.ndindex(2, 2):
        alone = METHODS[method](xp.asarray(stack[i]), xp.asarray(kernels[i]))
        if xp is np:
            assert_same(out[i], alone)
        else:  # a batched cuFFT may add in another order
            assert_close(out[i], alone, atol=1e-3 if dtype == "float32" else 1e-9)
    assert np.isnan(out[1, 0]).all()
    assert not out[0, 1].any()


@in_every_method
def test_one_kernel_serves_every_plane(xp: Any, method: str) -> None:
    """Colour: planes (C, H, W) and a kernel (1, kh, kw); each plane comes out as it does alone. Inputs stay."""
    planes, kernel = xp.asarray(np.stack([blurred_picture()[:40, :44] ** n for n in (1, 1.5, 2)])), xp.asarray(KERNEL)
    before = planes.copy(), kernel.copy()
    out = METHODS[method](planes, kernel[None])
    for plane, sharp in zip(planes, out, strict=True):
        assert_close(sharp, METHODS[method](plane, kernel), atol=1e-9)
    for now, then in zip((planes, kernel), before, strict=True):
        assert_same(now, then)


@pytest.mark.parametrize(
    ("method", "options", "tolerance"),
    [
        ("tv", {"weight": 1e-3}, 1e-9),
        ("wiener", {"weight": 1e-3}, 1e-10),
        ("richardson-lucy", {"num_iter": 10, "discrepancy": 0.0}, 1e-8),
    ],
)
def test_a_shift_of_a_periodic_picture_shifts_the_result(
    xp: Any, method: str, options: dict[str, Any], tolerance: float
) -> None:
    u, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    moved, out = (METHODS[method](x, kernel, boundary="wrap", **options) for x in (xp.roll(u, (7, -3), (0, 1)), u))
    assert_close(moved, xp.roll(out, (7, -3), (0, 1)), atol=tolerance)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize(
    ("function", "options", "tolerance"),
    [
        (nonblind.wiener, {}, 2e-3),
        (nonblind.unsupervised_wiener, {"rng": 0}, 2e-3),
        (nonblind.richardson_lucy, {"damping": 1.0, "num_iter": 5}, 1e-3),
    ],
)
def test_the_scale_of_the_picture_does_not_matter(
    xp: Any, function: Any, options: dict[str, Any], tolerance: float, scale: float
) -> None:
    u, kernel = xp.asarray(blurred_picture(0.01, "float32")), xp.asarray(KERNEL.astype(np.float32))
    scaled = function(u * np.float32(scale), kernel, **options) / np.float32(scale)
    assert_close(scaled, function(u, kernel, **options), atol=tolerance)


CHANGES: dict[str, dict[str, Any]] = {
    "tv": {"isotropic": False, "iterations": 5, "boundary": "edge", "weight": 1e-2},
    "hyper-laplacian": {"beta_rate": 4.0, "beta_max": 8.0},
    "sparse": {"exponent": 1.5, "reweightings": 0, "iterations": 5},
    "l0": {"boundary": "edge", "beta_rate": 8.0, "beta_max": 100.0, "weight": 1e-2},
    "ringing-suppressed": {
        "suppression": 0.5,
        "sigma": 1.0,
        "range_sigma": 0.02,
        "flat_weight": 5e-3,
        "boundary": "edge",
    },
}


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in CHANGES for name in CHANGES[method]])
def test_every_parameter_matters(xp: Any, method: str, name: str) -> None:
    arrays, options = (xp.asarray(blurred_picture()), xp.asarray(KERNEL)), {"weight": 2e-3}
    usual, other = (METHODS[method](*arrays, **(options | more)) for more in ({}, {name: CHANGES[method][name]}))
    assert float(abs(usual - other).max()) > 1e-3


@in_every_method
def test_float32_is_as_good_as_float64(xp: Any, method: str) -> None:
    single, double = (
        METHODS[method](xp.asarray(blurred_picture(dtype=dtype)[:40, :44].copy()), xp.asarray(KERNEL.astype(dtype)))
        for dtype in ("float32", "float64")
    )
    assert psnr(single.astype("float64"), double) > 60


@in_every_method
def test_progress_rises_to_one(xp: Any, method: str) -> None:
    fractions: list[float] = []
    METHODS[method](xp.asarray(blurred_picture()[:40, :44].copy()), xp.asarray(KERNEL), callback=fractions.append)
    assert len(fractions) > 2
    assert fractions == sorted(set(fractions))
    assert fractions[0] > 0
    assert fractions[-1] == 1


@pytest.mark.parametrize("final", sorted(FINALS))
def test_a_blind_run_ends_with_a_method_and_its_options(xp: Any, final: str) -> None:
    arrays, fractions = (xp.asarray(blurred_picture()), xp.asarray(KERNEL)), list[float]()
    assert_same(restore(*arrays, final, fractions.append), METHODS[final](*arrays, **FINALS[final]))
    assert fractions[-1] == 1


@pytest.mark.parametrize("size", [(11, 11), (5, 9), (1, 3)])
def test_what_a_result_leaves_unexplained(xp: Any, size: tuple[int, int]) -> None:
    """Nothing, for the true picture; a known share of an error; pixels whose blur comes from outside do not count."""
    kernel = KERNEL[5 - size[0] // 2 : 6 + size[0] // 2, 5 - size[1] // 2 : 6 + size[1] // 2]
    kernel = kernel / kernel.sum()
    blurred = np.full(SCENE.shape, 7.0)
    rows, columns = (slice(side // 2, n - side // 2) for side, n in zip(size, SCENE.shape, strict=True))
    blurred[rows, columns] = blur(SCENE, kernel)
    arrays = (xp.asarray(np.stack([blurred, blurred + 0.1])), xp.asarray(SCENE), xp.asarray(kernel))
    assert_close(residual_mse(*arrays), np.array([0, 0.01]), atol=1e-12)


# ---- the end of `deblur`


def test_a_kernel_that_fills_its_picture_is_not_trusted(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`restore` smooths more where a kernel has many unknowns for its picture, and hardly more where it has few."""
    kernel = xp.asarray(linear_kernel(5, 0, 15, dtype=np.float32))
    blurred = blur(data.camera()[:256, :256] / 255, linear_kernel(5, 0, 15)).astype(np.float32)
    small, large = (xp.asarray(blurred[:n, :n]) for n in (30, 200))

    def mean_gradient(u: Any) -> float:
        return float(abs(u[..., 1:] - u[..., :-1]).mean())

    cautious = [mean_gradient(restore(u, kernel, "tv")) for u in (small, large)]
    monkeypatch.setattr(finals, "KERNEL_ERROR", 0.0)
    trusting = [mean_gradient(restore(u, kernel, "tv")) for u in (small, large)]
    assert cautious[0] < 0.98 * trusting[0]
    assert cautious[1] == pytest.approx(trusting[1], rel=1e-3)
