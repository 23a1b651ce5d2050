"""Projection of a solution onto kernels, piece by piece, and the L0 refinement."""

from __future__ import annotations

from typing import Any

import laws
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from laws import assert_close, assert_same

from gpudeblur.blind import kernel_refine
from gpudeblur.blind.kernel_projection import center, drop_components, initial_kernel, normalize, project, threshold
from gpudeblur.blind.kernel_refine import refine_kernel
from gpudeblur.numerics import toeplitz
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import trajectory_kernel

SOLVERS = ["nnls", "cg"]


def delta(size: tuple[int, int]) -> np.ndarray:
    kernel = np.zeros(size)
    kernel[size[0] // 2, size[1] // 2] = 1
    return kernel


def strokes(n: int = 4, size: int = 11, dtype: str = "float32") -> np.ndarray:
    """Kernels as a solver leaves them: a stroke, specks and negative pixels."""
    noise = np.random.default_rng(0).normal(size=(n, size, size)) * 4e-3
    return (np.stack([trajectory_kernel(size, rng=i) for i in range(n)]) + noise).astype(dtype)


# ---- projection


def test_normalise_clips_and_scales(xp: Any) -> None:
    out = normalize(xp.asarray([[[1.0, -2.0, 3.0], [0.0, 4.0, -1.0]], [[0.0, 0.0, 0.5], [0.0, 0.0, 0.0]]]))
    expected = np.array([[[1 / 8, 0, 3 / 8], [0, 1 / 2, 0]], [[0, 0, 1], [0, 0, 0]]])
    assert_close(out, expected, rtol=1e-15)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_kernel_without_mass_becomes_a_delta(xp: Any, value: float, dtype: str) -> None:
    for shape in ((5, 3), (2, 3, 7)):
        for step in (normalize, lambda k: project(k, share=0.05, component=0.03)):
            out = step(xp.full(shape, value, dtype=dtype))
            assert out.dtype == dtype
            assert_same(out, np.broadcast_to(delta(shape[-2:]), shape))


def test_the_threshold_is_a_share_of_the_maximum(xp: Any) -> None:
    kernel = xp.asarray([[[1.0, 10.0, 0.5], [0.49, 2.0, 0.0]], [[1.0, 0.2, 0.05], [0.04, 0.5, 0.0]]])
    expected = [[[1, 10, 0.5], [0, 2, 0]], [[1, 0.2, 0.05], [0, 0.5, 0]]]
    assert_same(threshold(kernel, 0.05), np.array(expected))
    assert_same(threshold(kernel, 0.0), kernel)
    assert int((threshold(kernel, 0.9) > 0).sum()) == 2


def picture_of(rows: str) -> np.ndarray:
    """ "12. .3." as a kernel: digits are masses, dots are zeros."""
    return np.array([[0.0 if c == "." else float(c) for c in row] for row in rows.split()])


COMPONENTS = [
    ("9.1 9.. ...", 0.04, "9.1 9.. ..."),  # 1 of 19 is more than 4 % ...
    ("9.1 9.. ...", 0.06, "9.. 9.. ..."),  # ... and less than 6 %
    ("9.. .1. ..1", 0.5, "9.. .1. ..1"),  # neighbours across a corner belong together
    ("9... .... .11. ....", 0.1, "9... .... .11. ...."),  # the mass of a component counts, 2 of 11
    ("9... .... .11. ....", 0.2, "9... .... .... ...."),
    ("1.1 ... 1.2", 0.9, "... ... ..2"),  # the heaviest always stays
    ("1.1 ... ...", 0.9, "1.1 ... ..."),  # and so does its equal
    ("1.9 ... ...", 0.0, "1.9 ... ..."),
]


@pytest.mark.parametrize(("before", "share", "after"), COMPONENTS)
def test_light_components_are_dropped(xp: Any, before: str, share: float, after: str) -> None:
    assert_same(drop_components(xp.asarray(picture_of(before)), share), picture_of(after))


def test_components_end_at_the_border_of_their_picture(xp: Any) -> None:
    """What lies at the same place in the next picture is no neighbour, and each picture has its own mass."""
    stack = np.stack([picture_of(k) for k in ("9.. ... ..1", "1.. ... ..9", "... ... ...", "5.. ... ..4")])
    stack[3] *= 1e-3
    out = to_host(drop_components(xp.asarray(stack.reshape(2, 2, 3, 3)), 0.2)).reshape(4, 3, 3)
    assert_same(out[0], picture_of("9.. ... ..."))
    assert_same(out[1], picture_of("... ... ..9"))
    assert not out[2].any()
    assert_same(out[3], stack[3])


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, (2, 5, 7), elements=st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.5])),
    st.sampled_from([0.0, 0.1, 0.3, 0.6]),
)
def test_dropping_keeps_whole_components_and_is_done_once(kernel: np.ndarray, share: float) -> None:
    out = drop_components(kernel, share)
    kept = out > 0
    np.testing.assert_array_equal(out[kept], kernel[kept])
    # No pixel that was dropped touches one that was kept.
    near = np.zeros_like(kept)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            near[:, 1:-1, 1:-1] |= np.roll(kept, (dy, dx), (1, 2))[:, 1:-1, 1:-1]
    assert not ((kernel > 0) & ~kept & near)[:, 1:-1, 1:-1].any()
    assert (kept.any((1, 2)) == kernel.any((1, 2))).all()
    np.testing.assert_array_equal(drop_components(out, share), out)


@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (-1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_centre_undoes_a_shift(xp: Any, shift: tuple[int, int], dtype: str) -> None:
    kernel = np.pad([[1.0, 2, 1], [2, 5, 2], [1, 2, 1]], ((3, 3), (4, 4))).astype(dtype)
    kernels = xp.asarray(np.stack([np.roll(kernel, shift, (0, 1)), kernel]))
    out = center(kernels, kernels)
    assert out.dtype == dtype
    assert_same(out, np.stack([kernel, kernel]))


def test_what_leaves_the_support_is_lost(xp: Any) -> None:
    """The centre of mass lies 1.6 columns left of the middle: all moves by 2, and nothing wraps around."""
    before, after = picture_of("....... 444...1 ......."), picture_of("....... ..444.. .......")
    for turn in (lambda k: k, np.transpose, np.fliplr):
        kernel = xp.asarray(turn(before).copy())
        assert_same(center(kernel, kernel), turn(after))


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float64, (3, 5, 7), elements=st.floats(-1, 1)), st.floats(0, 0.9), st.floats(0, 0.9))
def test_a_projection_is_a_kernel(kernel: np.ndarray, share: float, component: float) -> None:
    out = project(kernel, share=share, component=component)
    assert out.shape == kernel.shape
    assert (out >= 0).all()
    np.testing.assert_allclose(out.sum((-2, -1)), 1, rtol=1e-12)


def test_a_projection_is_centred_and_has_no_specks(xp: Any) -> None:
    kernel = np.zeros((11, 11))
    kernel[1:4, 2:4], kernel[9, 9], kernel[2, 5] = 1, 0.5, 0.01
    out = to_host(project(xp.asarray(kernel), share=0.05, component=0.1))
    expected = np.zeros((11, 11))
    # The centre of mass of the block is 2.5 pixels left of the middle; exactly half a pixel is rounded to even.
    expected[4:7, 4:6] = 1 / 6
    assert_close(out, expected, atol=1e-15)


def test_share_and_component_matter(xp: Any) -> None:
    kernels = xp.asarray(strokes())
    counts = [int((project(kernels, share=s, component=c) > 0).sum()) for s, c in ((0.01, 0), (0.1, 0), (0.01, 0.05))]
    assert counts[0] > counts[1] > 0
    assert counts[0] > counts[2] > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_projecting_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, dtype: str) -> None:
    kernels = strokes(4, dtype=dtype)
    kernels[1], kernels[2] = np.nan, 0
    laws.assert_batch_is_loop(lambda k: project(k, share=0.05, component=0.03), xp.asarray(kernels))
    folded = project(xp.asarray(kernels.reshape(2, 2, 11, 11)), share=0.05, component=0.03)
    assert_same(folded.reshape(4, 11, 11), project(xp.asarray(kernels), share=0.05, component=0.03))


def test_a_projection_forgets_the_scale_and_keeps_the_solution_it_is_given(xp: Any) -> None:
    kernels = xp.asarray(strokes())
    before, once = kernels.copy(), project(kernels, share=0.05, component=0.03)
    assert_same(kernels, before)
    for scale in (2.0**-60, 2.0**40):  # powers of two: nothing is rounded
        assert_close(project(kernels * scale, share=0.05, component=0.03), once, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_projection_of_what_is_no_kernel_is_a_delta(xp: Any, value: float) -> None:
    kernels = strokes(2)
    kernels[0, 1, 1] = value
    kernels[0, 5, 5] = np.inf
    out = project(xp.asarray(kernels), share=0.05, component=0.03)
    assert_same(out[0], delta((11, 11)))
    assert_same(out[1], project(xp.asarray(kernels[1]), share=0.05, component=0.03))


def test_a_projection_has_a_pixel_at_least(xp: Any) -> None:
    """The maximum meets any share of itself, and a component of all the mass any share of that."""
    kernel = project(xp.asarray(strokes(1)), share=1.0, component=1.0)
    assert_same(kernel[0], delta((11, 11)))


def test_a_kernel_that_is_not_known_is_a_delta(xp: Any) -> None:
    kernels = xp.asarray(strokes(3))
    out = normalize(kernels, xp.asarray([True, False, True]))
    assert_same(out[1], delta((11, 11)))
    assert_same(out[::2], normalize(kernels)[::2])
    assert_same(normalize(kernels[1], xp.asarray(False)), delta((11, 11)))


def test_the_first_kernel_is_a_small_blur(xp: Any) -> None:
    out = to_host(initial_kernel((3, 5), 2, xp, "float32"))
    assert out.dtype == np.float32
    expected = np.zeros((3, 5))
    expected[1, 1:3] = 0.5
    assert_same(out, np.stack([expected, expected]))


# ---- refinement


def equations(n: int = 2, size: tuple[int, int] = (9, 9), dtype: str = "float64", error: float = 0.0) -> Any:
    """(autocorrelation, rhs, kernel) of well-posed systems whose exact solution is `kernel`, but for `error` in rhs."""
    a = laws.system(size, n)[0].astype(dtype)
    kernels = np.stack([trajectory_kernel(size[0], rng=i) for i in range(n)]).astype(dtype)
    spectrum, grid = toeplitz.toeplitz_spectrum(a)
    rhs = toeplitz.toeplitz_apply(spectrum, grid, kernels)
    noise = np.random.default_rng(1).normal(size=rhs.shape).astype(dtype)
    return a, rhs + error * abs(rhs).max() * noise, kernels


DEFAULTS = {"weight": 1e-3, "beta": 0.05, "solver": "nnls", "iterations": 40}


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_solution_of_the_equations_stands_still(xp: Any, solver: str) -> None:
    """Every pixel of it is above the threshold or zero."""
    a, _, kernels = equations()
    kernels = threshold(kernels, 0.2)
    rhs = toeplitz.toeplitz_apply(*toeplitz.toeplitz_spectrum(a), kernels)
    arrays = (xp.asarray(x) for x in (a, rhs, kernels))
    out = refine_kernel(*arrays, **DEFAULTS | {"solver": solver, "beta": 0.1})
    assert_close(out, kernels, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_it_finds_the_solution_from_elsewhere(xp: Any, solver: str) -> None:
    a, rhs, kernels = (xp.asarray(x) for x in equations())
    start = kernels * 0.7 + 0.3 / 81
    out = refine_kernel(a, rhs, start, **DEFAULTS | {"weight": 1e-9, "solver": solver, "beta": 1e-4, "iterations": 300})
    before, after = (float(((k - kernels) ** 2).sum()) for k in (start, out))
    assert after < 1e-2 * before


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_kernel_gets_closer_to_the_true_one(xp: Any, solver: str) -> None:
    """What the second step is for: equations with an error, a start that is thick and noisy."""
    a, rhs, kernels = equations(error=0.01)
    start = normalize(kernels + 0.01 * abs(np.random.default_rng(2).normal(size=kernels.shape)))
    out = refine_kernel(*(xp.asarray(x) for x in (a, rhs, start)), **DEFAULTS | {"solver": solver, "weight": 5e-3})
    out = to_host(project(out, share=0.05, component=0.03))
    before = project(start, share=0.05, component=0.03)
    assert ((out - kernels) ** 2).sum() < 0.7 * ((before - kernels) ** 2).sum()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_larger_weight_gives_a_sparser_kernel(xp: Any, solver: str) -> None:
    arrays = [xp.asarray(x) for x in equations(error=0.02)]
    counts = []
    for weight in (1e-6, 1e-3, 1e-1):
        out = to_host(refine_kernel(*arrays, **DEFAULTS | {"weight": weight, "solver": solver, "beta": 0.25}))
        counts.append(int((abs(out) > 0.03 * out.max()).sum()))
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.mark.parametrize("change", [{"beta": 0.8}, {"solver": "cg"}, {"iterations": 2}, {"weight": 0.05}])
def test_every_parameter_matters(xp: Any, change: dict[str, Any]) -> None:
    a, rhs, kernels = (xp.asarray(x) for x in equations(error=0.02))
    start = normalize(kernels + 0.01)
    first, second = (refine_kernel(a, rhs, start, **options) for options in (DEFAULTS, DEFAULTS | change))
    assert float(abs(first - second).max()) > 1e-3 * float(first.max())


def test_a_smaller_beta_goes_further_from_the_start(xp: Any) -> None:
    a, rhs, kernels = (xp.asarray(x) for x in equations(error=0.02))
    start = normalize(kernels + 0.02)
    moved = [
        float(((refine_kernel(a, rhs, start, **DEFAULTS | {"beta": beta, "weight": 1e-9}) - start) ** 2).sum())
        for beta in (1.0, 0.1, 0.01)
    ]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_beta_doubles_up_to_one_and_the_threshold_falls_with_it(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """r = k where k^2 >= weight / beta, on the scale where k has maximum 1 and a(0) is 1; b + beta r is solved."""
    a, rhs, kernels = equations(n=1)
    scale, peak = toeplitz.zero_lag(a)[:, None, None], kernels.max()
    betas, splits = [], []

    def held(a: Any, b: Any, k: Any, beta: float, *_: Any) -> Any:
        betas.append(beta)
        splits.append((to_host(b) - rhs / (scale * peak)) / beta)
        return k

    monkeypatch.setattr(kernel_refine, "solve_kernel", held)
    refine_kernel(*(xp.asarray(x) for x in (a, rhs, kernels)), **DEFAULTS | {"beta": 0.125, "weight": 0.01})
    np.testing.assert_allclose(betas, [0.125, 0.25, 0.5, 1])
    for beta, split in zip(betas, splits, strict=True):
        k = kernels / peak
        np.testing.assert_allclose(split, np.where(k**2 >= 0.01 / beta, k, 0), atol=1e-12)
    assert len({int((split > 1e-9).sum()) for split in splits}) == 4


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_scale_of_equations_and_kernel_does_not_matter(xp: Any, solver: str) -> None:
    """Brighter pictures change the equations as a whole; a kernel in other units scales with its right-hand side."""
    a, rhs, kernels = (xp.asarray(x) for x in equations(error=0.02))
    options = DEFAULTS | {"solver": solver}
    out = to_host(refine_kernel(a, rhs, kernels, **options))
    assert_close(refine_kernel(a * 7, rhs * 7, kernels, **options), out, atol=1e-12)
    assert_close(refine_kernel(a, rhs * 5, kernels * 5, **options), out * 5, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_refining_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, solver: str, dtype: str) -> None:
    a, rhs, kernels = equations(4, dtype=dtype, error=0.02)
    rhs[1], a[2], rhs[2] = np.nan, 0, 0
    out = refine_kernel(*(xp.asarray(x) for x in (a, rhs, kernels)), **DEFAULTS | {"solver": solver})
    assert out.dtype == dtype
    for i in range(4):
        alone = refine_kernel(*(xp.asarray(x[i]) for x in (a, rhs, kernels)), **DEFAULTS | {"solver": solver})
        if xp is np:
            assert_same(out[i], alone)
        else:  # a batched cuFFT may add in another order
            assert_close(out[i], alone, atol=1e-3 if dtype == "float32" else 1e-9)
    assert xp.isfinite(out[2]).all()


def test_a_system_without_gradients_gives_finite_kernels(xp: Any) -> None:
    """A constant picture: A = 0 and b = 0, and then a start of zero besides."""
    zero = xp.zeros((2, 17, 17), dtype="float32")
    start = xp.zeros((2, 9, 9), dtype="float32")
    start[0] = 1 / 81
    out = refine_kernel(zero, xp.zeros_like(start), start, **DEFAULTS)
    assert xp.isfinite(out).all()


def test_the_inputs_are_left_alone(xp: Any) -> None:
    arrays = [xp.asarray(x) for x in equations()]
    before = [x.copy() for x in arrays]
    refine_kernel(*arrays, **DEFAULTS)
    project(arrays[2], share=0.05, component=0.03)
    for now, then in zip(arrays, before, strict=True):
        assert_same(now, then)
