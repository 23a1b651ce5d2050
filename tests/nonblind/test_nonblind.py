"""Restoration with a known kernel: laws of each method, and that it restores, also at the borders."""

from __future__ import annotations

from typing import Any

import laws
import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind import final as nonblind
from gpudeblur.nonblind.final import FINALS, residual_mse, restore
from gpudeblur.nonblind.methods.hyper_laplacian import dt_shrink, hyper_laplacian, shrink_two_thirds
from gpudeblur.nonblind.methods.sparse import derivatives, derivatives_adjoint, sparse
from gpudeblur.nonblind.regularization import WEIGHT_RULES, estimate_weight
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.conjugate_gradient import conjugate_gradient
from gpudeblur.numerics.filters import gradient, gradient_adjoint
from gpudeblur.synthesis import blur, linear_kernel, trajectory_kernel

KERNEL = trajectory_kernel(11, rng=3)
in_every_method = pytest.mark.parametrize("method", sorted(METHODS))
with_a_weight = pytest.mark.parametrize("method", sorted({*METHODS} - {"richardson-lucy"}))


SCENE = data.camera()[100:196, 200:310] / 255
TRUE = SCENE[5:-5, 5:-5]


def blurred_picture(noise: float = 2e-3, dtype: str = "float64") -> np.ndarray:
    """A photograph of `TRUE`, 86 x 100: the blur reaches in from the scene outside."""
    return blur(SCENE, KERNEL, noise_sigma=noise, rng=0).astype(dtype)


def delta(size: tuple[int, int], dtype: str = "float64") -> np.ndarray:
    kernel = np.zeros(size, dtype)
    kernel[size[0] // 2, size[1] // 2] = 1
    return kernel


def small_weight(method: str, weight: float) -> dict[str, float]:
    """Of the prior; "richardson-lucy" has none, and goes on until there is no noise."""
    return {"noise_sigma": 0.0} if method == "richardson-lucy" else {"weight": weight}


def frame(shape: tuple[int, int], width: int) -> np.ndarray:
    """The pixels at most `width` from the border."""
    border = np.ones(shape, dtype=bool)
    border[width:-width, width:-width] = False
    return border


# ---- laws of every method


@in_every_method
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(24, 30), (17, 21)])
def test_a_delta_returns_the_picture(xp: Any, method: str, dtype: str, shape: tuple[int, int]) -> None:
    """But for the prior, which a small weight all but switches off; "richardson-lucy" has none."""
    u = xp.asarray(np.random.default_rng(0).random(shape).astype(dtype))
    out = METHODS[method](u, xp.asarray(delta((5, 3), dtype)), **small_weight(method, 1e-6))
    assert out.dtype == dtype
    assert out.shape == shape
    assert_close(out, u, atol=1e-3)


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
@pytest.mark.parametrize("kernel", SHAKES)
def test_a_known_kernel_restores_inside_and_at_the_borders(xp: Any, method: str, kernel: np.ndarray) -> None:
    inside, at_border = gains(xp, method, kernel)
    assert inside > 4
    assert at_border > 2


@pytest.mark.parametrize("kernel", LINES)
def test_line_blurs_too(xp: Any, kernel: np.ndarray) -> None:
    """A line takes whole bands of frequencies away: the priors of the first five fill them, the others less."""
    plain = {"wiener", "richardson-lucy"}  # a quadratic prior, and none
    for method in sorted({*METHODS} - plain):
        inside, at_border = gains(xp, method, kernel)
        assert inside > 8
        assert at_border > 5
    for method in sorted(plain):
        inside, at_border = gains(xp, method, kernel)
        assert inside > 3
        assert at_border > 0.5


@with_a_weight
def test_the_weight_trades_noise_for_detail(xp: Any, method: str) -> None:
    """A larger weight leaves less gradient; on a noisy picture a middle one is the best."""
    noisy = blurred_picture(noise=0.02)
    mean_gradient, quality = [], []
    law = method in WEIGHT_RULES  # "wiener" looks for the most probable weight; about this one it is
    default = float(estimate_weight(xp.asarray(noisy), xp.asarray(KERNEL), method)) if law else 0.03
    for factor in (1e-3, 1, 1e3):
        out = to_host(METHODS[method](xp.asarray(noisy), xp.asarray(KERNEL), weight=default * factor))
        mean_gradient.append(np.abs(np.diff(out)).mean())
        quality.append(psnr(out, TRUE))
    assert mean_gradient[0] > 1.5 * mean_gradient[1] > 1.5 * 1.5 * mean_gradient[2]
    assert quality[1] > max(quality[0], quality[2]) + 1


@in_every_method
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_picture_stays_constant(xp: Any, method: str, value: float) -> None:
    """Richardson-Lucy takes pixels outside that count with less than a thousandth (`LEAST`) to be black."""
    out = METHODS[method](xp.full((20, 25), value), xp.asarray(KERNEL))
    assert_close(out, np.full((), value), atol=1e-3 if method == "richardson-lucy" else 1e-5)


@in_every_method
def test_mirroring_picture_and_kernel_mirrors_the_result(xp: Any, method: str) -> None:
    """Forward differences and the wrap to the right and below favour no direction, but for rounding and the margin."""
    u = blurred_picture()[:86, :86]
    out = to_host(METHODS[method](xp.asarray(u), xp.asarray(KERNEL)))
    mirrored = METHODS[method](xp.asarray(u[::-1, ::-1].copy()), xp.asarray(KERNEL[::-1, ::-1].copy()))
    difference = np.abs(to_host(mirrored) - out[::-1, ::-1])
    assert difference.max() < (1e-8 if method == "sparse" else 2e-2 if method == "hyper-laplacian" else 0.1)
    assert np.sqrt((difference**2).mean()) < (0.02 if method == "l0" else 0.01)


@in_every_method
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, method: str, dtype: str) -> None:
    u = blurred_picture(dtype=dtype)[:40, :44]
    stack = np.stack([u, u[::-1], u, u.max() - u]).reshape(2, 2, 40, 44)
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
    """Colour: planes (C, H, W) and a kernel (1, kh, kw); each plane comes out as it does alone."""
    planes = xp.asarray(np.stack([blurred_picture() ** power for power in (1, 1.5, 2)]))
    out = METHODS[method](planes, xp.asarray(KERNEL)[None])
    for plane, sharp in zip(planes, out, strict=True):
        assert_close(sharp, METHODS[method](plane, xp.asarray(KERNEL)), atol=1e-9)


@in_every_method
def test_float32_is_as_good_as_float64(xp: Any, method: str) -> None:
    single, double = (
        METHODS[method](xp.asarray(blurred_picture(dtype=dtype)), xp.asarray(KERNEL.astype(dtype)))
        for dtype in ("float32", "float64")
    )
    assert psnr(single.astype("float64"), double) > 60


@in_every_method
def test_progress_rises_to_one(xp: Any, method: str) -> None:
    fractions: list[float] = []
    METHODS[method](xp.asarray(blurred_picture()), xp.asarray(KERNEL), callback=fractions.append)
    assert len(fractions) > 2
    assert fractions == sorted(set(fractions))
    assert fractions[0] > 0
    assert fractions[-1] == 1


@in_every_method
def test_the_inputs_are_left_alone(xp: Any, method: str) -> None:
    arrays = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    before = [x.copy() for x in arrays]
    METHODS[method](*arrays)
    for now, then in zip(arrays, before, strict=True):
        assert_same(now, then)


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


# ---- hyper-Laplacian


def test_shrinking_is_the_best_of_all_values(xp: Any) -> None:
    """Against brute force: no value of a fine grid has a smaller |w|^(2/3) + beta / 2 (w - v)^2."""
    grid = np.linspace(-2, 2, 40001)
    v = np.concatenate([np.linspace(-1.5, 1.5, 61), [1e-9, -1e-9]])
    for beta in (1.0, 8.0, 256.0):
        w = to_host(shrink_two_thirds(xp.asarray(v), beta))

        def cost(w: np.ndarray, v: Any, beta: float = beta) -> np.ndarray:
            return np.cbrt(w * w) + beta / 2 * (w - v) ** 2

        least = np.array([cost(grid, value).min() for value in v])
        np.testing.assert_array_less(cost(w, v), least + 1e-9)
        assert (np.sign(w) * np.sign(v) >= 0).all()
        assert (np.abs(w) <= np.abs(v)).all()


def test_shrinking_jumps_to_zero_at_its_threshold(xp: Any) -> None:
    """|v| = 2 (2 / (3 beta))^(3/4); just above, w is half of v or more."""
    beta = 20.0
    edge = 2 * (2 / (3 * beta)) ** 0.75
    out = to_host(shrink_two_thirds(xp.asarray([0.999 * edge, 1.001 * edge, -1.001 * edge, 0.0]), beta))
    assert out[0] == out[3] == 0
    assert 0.4 * edge < out[1] < edge
    assert out[2] == -out[1]


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 5e-7), ("float64", 7.4e-9)])
def test_shrinking_is_the_root_to_rounding(xp: Any, dtype: str, bound: float) -> None:
    """w = u^3 with u the largest root of u^4 - |v| u + c, c = 2 / (3 beta); only |v|^(4/3) / c counts.

    Every ratio of the two from the threshold up is there, densely where w / v bends, at every size of v and beta.
    """
    ratio = np.concatenate([2 ** (4 / 3) + np.geomspace(1e-6, 1e3, 20001), np.geomspace(1e3, 1e9, 2001)])
    for beta in np.geomspace(1e-6, 1e12, 19).tolist():
        unit = (2 / (3 * beta)) ** 0.75
        v = (unit * ratio**0.75).astype(dtype)
        size = v.astype(np.float64) / unit
        root = np.cbrt(size)  # of u^4 - size u + 1, from above, where the polynomial is convex
        for _ in range(12):
            root -= (root**4 - size * root + 1) / (4 * root**3 - size)
        out = to_host(shrink_two_thirds(xp.asarray(v), beta))
        assert_close(out, unit * root**3, rtol=bound)
        assert_same(-out, shrink_two_thirds(xp.asarray(-v), beta))


@pytest.mark.parametrize("shape", [(9, 7), (2, 3, 6, 5), (1, 1)])
def test_shrinking_may_overwrite_what_it_is_given(xp: Any, shape: tuple[int, ...]) -> None:
    v = xp.asarray(np.random.default_rng(0).normal(size=shape))
    for u in (v, v.swapaxes(-1, -2), v[..., ::2]):
        before, out = u.copy(), shrink_two_thirds(u, 3.0)
        assert_same(u, before)
        assert_same(shrink_two_thirds(before, 3.0, overwrite=True), out)


@pytest.mark.parametrize("shape", [(9, 7), (2, 3, 6, 5), (1, 7), (1, 1)])
def test_the_split_is_the_adjoint_of_shrunk_differences(xp: Any, shape: tuple[int, ...]) -> None:
    u = xp.asarray(np.random.default_rng(0).random(shape))
    parts = (shrink_two_thirds(g, 30.0) for g in gradient(u))
    assert_same(dt_shrink(u, 30.0), gradient_adjoint(*parts))
    assert_same(dt_shrink(u.swapaxes(-1, -2), 30.0), dt_shrink(u.swapaxes(-1, -2).copy(), 30.0))
    laws.assert_shift_covariant(lambda x: dt_shrink(x, 30.0), u, (3, 2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shrinking_keeps_the_dtype_and_has_no_warnings(xp: Any, dtype: str) -> None:
    out = shrink_two_thirds(xp.asarray(np.array([0, 1e-30, -1e-30, 1e20, np.nan], dtype=dtype)), 3.0)
    assert out.dtype == dtype
    assert_close(out[:4], np.array([0, 0, 0, 1e20]), rtol=1e-6)


@pytest.mark.parametrize("change", [{"beta_rate": 4.0}, {"beta_max": 8.0}])
def test_the_continuation_of_hyper_laplacian_matters(xp: Any, change: dict[str, float]) -> None:
    arrays = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    assert float(abs(hyper_laplacian(*arrays) - hyper_laplacian(*arrays, **change)).max()) > 1e-3


# ---- sparse


@pytest.mark.parametrize("shape", [(6, 9), (2, 7, 5), (3, 3)])
def test_derivatives_are_differences_where_all_pixels_are_there(xp: Any, shape: tuple[int, ...]) -> None:
    u = np.random.default_rng(0).normal(size=shape)
    parts = derivatives(xp.asarray(u))
    expected = [np.diff(u), np.diff(u, axis=-2), np.diff(u, 2), np.diff(u, 2, axis=-2), np.diff(np.diff(u), axis=-2)]
    for part, value in zip(parts, expected, strict=True):
        assert_close(part, value, atol=1e-15)


@pytest.mark.parametrize("shape", [(6, 9), (2, 7, 5), (3, 3)])
def test_derivatives_and_adjoint_are_a_pair(xp: Any, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    u = xp.asarray(random.normal(size=shape))
    parts = [xp.asarray(random.normal(size=part.shape)) for part in derivatives(u)]
    for only in (None, 0, 1, 2, 3, 4):  # all together, then one by one
        given = tuple(p if only in (None, i) else p * 0 for i, p in enumerate(parts))
        laws.assert_adjoint(
            lambda x: tuple(derivatives(x)), lambda *p: derivatives_adjoint([*p], xp.zeros(shape)), u,
            tuple(p.copy() for p in given),
        )  # fmt: skip


def test_the_adjoint_adds_to_what_is_there(xp: Any) -> None:
    parts = derivatives(xp.asarray(np.random.default_rng(0).normal(size=(6, 9))))
    out = derivatives_adjoint([p.copy() for p in parts], xp.ones((6, 9)))
    assert_close(out, 1 + to_host(derivatives_adjoint(parts, xp.zeros((6, 9)))), atol=1e-12)


def test_sparse_lowers_its_objective(xp: Any) -> None:
    """|valid(x * k) - B|^2 over what is inside, and the prior; the reweighted solves go below the plain one."""
    blurred = blurred_picture(noise=0.01)
    weight, shares = 0.0068, (0.1, 0.1, 0.025, 0.025, 0.025)

    def objective(x: np.ndarray) -> float:
        # x is cut at the frame: what it is outside is not compared.
        misfit = ((blur(x, KERNEL) - blurred[5:-5, 5:-5]) ** 2).sum()
        prior = [(np.maximum(abs(d), 0.01) ** 0.8).sum() for d in derivatives(x)]
        return float(misfit + weight * np.dot(shares, prior))

    arrays = xp.asarray(blurred), xp.asarray(KERNEL)
    values = [objective(to_host(sparse(*arrays, weight=weight, reweightings=n))) for n in (0, 1, 2, 6)]
    assert objective(blurred) > values[0] > values[1] > values[2] > values[3]


@pytest.mark.parametrize("change", [{"exponent": 1.5}, {"reweightings": 0}, {"iterations": 5}])
def test_every_parameter_of_sparse_matters(xp: Any, change: dict[str, Any]) -> None:
    arrays = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    assert float(abs(sparse(*arrays) - sparse(*arrays, **change)).max()) > 1e-3


def test_more_iterations_come_closer_to_the_solution(xp: Any) -> None:
    arrays = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    solution = sparse(*arrays, reweightings=0, iterations=400)
    errors = [float(((sparse(*arrays, reweightings=0, iterations=n) - solution) ** 2).sum()) for n in (5, 25, 100)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_a_few_steps_do_where_little_is_unseen(xp: Any) -> None:
    """The preconditioner is the inverse on a torus; only the border and the weights' variety are left to the steps."""
    arrays = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    solution, few = (to_host(sparse(*arrays, reweightings=0, iterations=n)) for n in (400, 8))
    inside = ~frame(solution.shape, 20)
    assert np.sqrt(((few - solution)[inside] ** 2).mean()) < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_sparse_has_small_pictures(xp: Any, size: tuple[int, int]) -> None:
    u = xp.asarray(np.random.default_rng(0).random(size))
    assert_close(sparse(u, xp.asarray(delta((1, 1))), weight=1e-9), u, atol=1e-4)


@pytest.mark.parametrize("preconditioned", [True, False])
def test_conjugate_gradients_with_the_inverse_take_one_step(xp: Any, preconditioned: bool) -> None:
    """Two systems in one call; without it, as many steps as there are different eigenvalues."""
    random = np.random.default_rng(0)
    diagonal = xp.asarray(random.choice([1.0, 2.0, 7.0], (2, 5, 4)))
    rhs = xp.asarray(random.normal(size=(2, 5, 4)))
    options: dict[str, Any] = {"preconditioner": lambda r: r / diagonal} if preconditioned else {}
    found = conjugate_gradient(lambda u: diagonal * u, rhs, xp.zeros_like(rhs), 1 if preconditioned else 3, **options)
    assert_close(found, to_host(rhs / diagonal), atol=1e-12)


def test_a_kernel_that_fills_its_picture_is_not_trusted(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`restore` smooths more where a kernel has many unknowns for its picture, and hardly more where it has few."""
    kernel = xp.asarray(linear_kernel(5, 0, 15, dtype=np.float32))
    blurred = blur(data.camera()[:256, :256] / 255, linear_kernel(5, 0, 15)).astype(np.float32)
    small, large = (xp.asarray(blurred[:n, :n]) for n in (30, 200))

    def mean_gradient(u: Any) -> float:
        return float(abs(u[..., 1:] - u[..., :-1]).mean())

    wary = [mean_gradient(restore(u, kernel, "tv")) for u in (small, large)]
    monkeypatch.setattr(nonblind, "KERNEL_ERROR", 0.0)
    trusting = [mean_gradient(restore(u, kernel, "tv")) for u in (small, large)]
    assert wary[0] < 0.98 * trusting[0]
    assert wary[1] == pytest.approx(trusting[1], rel=1e-3)
