"""The projection of a solution onto kernels, and the L0 refinement."""

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

LIMITS = {"share": 0.05, "component": 0.03}
in_both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
with_both_solvers = pytest.mark.parametrize("solver", ["nnls", "cg"])


def delta(size: tuple[int, int]) -> np.ndarray:
    kernel = np.zeros(size)
    kernel[size[0] // 2, size[1] // 2] = 1
    return kernel


def strokes(n: int = 4, size: int = 11, dtype: str = "float32") -> np.ndarray:
    """Kernels as a solver leaves them: a stroke, specks and negative pixels."""
    noise = np.random.default_rng(0).normal(size=(n, size, size)) * 4e-3
    return (np.stack([trajectory_kernel(size, rng=i) for i in range(n)]) + noise).astype(dtype)


def kernel_of(rows: str) -> np.ndarray:
    """ "12. .3." as a kernel: digits are masses, dots are zeros."""
    return np.array([[0.0 if c == "." else float(c) for c in row] for row in rows.split()])


# ---- projection


def test_normalize_removes_negative_values_and_scales(xp: Any) -> None:
    out = normalize(xp.asarray([[[1.0, -2.0, 3.0], [0.0, 4.0, -1.0]], [[0.0, 0.0, 0.5], [0.0, 0.0, 0.0]]]))
    assert_close(out, np.array([[[1 / 8, 0, 3 / 8], [0, 1 / 2, 0]], [[0, 0, 1], [0, 0, 0]]]), rtol=1e-15)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
@in_both_dtypes
def test_a_kernel_without_mass_becomes_a_delta(xp: Any, value: float, dtype: str) -> None:
    for shape in ((5, 3), (2, 3, 7)):
        for step in (normalize, lambda k: project(k, **LIMITS)):
            out = step(xp.full(shape, value, dtype=dtype))
            assert out.dtype == dtype
            assert_same(out, np.broadcast_to(delta(shape[-2:]), shape))


def test_a_kernel_that_is_not_determined_becomes_a_delta(xp: Any) -> None:
    kernels = xp.asarray(strokes(3))
    out = normalize(kernels, xp.asarray([True, False, True]))
    assert_same(out[1], delta((11, 11)))
    assert_same(out[::2], normalize(kernels)[::2])
    assert_same(normalize(kernels[1], xp.asarray(False)), delta((11, 11)))


def test_the_initial_kernel_is_two_pixels_wide(xp: Any) -> None:
    out = initial_kernel((3, 5), 2, xp, "float32")
    assert out.dtype == np.float32
    expected = np.zeros((3, 5))
    expected[1, 1:3] = 0.5
    assert_same(out, np.stack([expected, expected]))


def test_the_threshold_is_a_fraction_of_the_maximum(xp: Any) -> None:
    kernel = xp.asarray([[[1.0, 10.0, 0.5], [0.49, 2.0, 0.0]], [[1.0, 0.2, 0.05], [0.04, 0.5, 0.0]]])
    expected = [[[1, 10, 0.5], [0, 2, 0]], [[1, 0.2, 0.05], [0, 0.5, 0]]]
    assert_same(threshold(kernel, 0.05), np.array(expected))
    assert_same(threshold(kernel, 0.0), kernel)
    assert int((threshold(kernel, 0.9) > 0).sum()) == 2


COMPONENTS = [
    ("9.1 9.. ...", 0.04, "9.1 9.. ..."),  # 1 of 19 is more than 4 % ...
    ("9.1 9.. ...", 0.06, "9.. 9.. ..."),  # ... and less than 6 %
    ("9.. .1. ..1", 0.5, "9.. .1. ..1"),  # neighbors across a corner belong together
    ("9... .... .11. ....", 0.1, "9... .... .11. ...."),  # the mass of a component counts, 2 of 11
    ("9... .... .11. ....", 0.2, "9... .... .... ...."),
    ("1.1 ... 1.2", 0.9, "... ... ..2"),  # the heaviest always stays
    ("1.1 ... ...", 0.9, "1.1 ... ..."),  # and so does its equal
    ("1.9 ... ...", 0.0, "1.9 ... ..."),
]


@pytest.mark.parametrize(("before", "fraction", "after"), COMPONENTS)
def test_light_components_are_dropped(xp: Any, before: str, fraction: float, after: str) -> None:
    assert_same(drop_components(xp.asarray(kernel_of(before)), fraction), kernel_of(after))


def test_components_end_at_the_border_of_their_kernel(xp: Any) -> None:
    """What lies at the same place in the next kernel is no neighbor, and each kernel has its own mass."""
    stack = np.stack([kernel_of(k) for k in ("9.. ... ..1", "1.. ... ..9", "... ... ...", "5.. ... ..4")])
    stack[3] *= 1e-3
    expected = np.stack([kernel_of("9.. ... ..."), kernel_of("... ... ..9"), 0 * stack[2], stack[3]])
    assert_same(drop_components(xp.asarray(stack.reshape(2, 2, 3, 3)), 0.2), expected.reshape(2, 2, 3, 3))


@settings(max_examples=50)
@given(
    hnp.arrays(np.float32, (2, 5, 7), elements=st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.5])),
    st.sampled_from([0.0, 0.1, 0.3, 0.6]),
)
def test_components_stay_or_go_as_a_whole(kernel: np.ndarray, fraction: float) -> None:
    out = drop_components(kernel, fraction)
    mask = out > 0
    assert_same(out[mask], kernel[mask])
    near = np.zeros_like(mask)  # no pixel that was dropped touches one that was not
    for dy, dx in np.ndindex(3, 3):
        near[:, 1:-1, 1:-1] |= np.roll(mask, (dy - 1, dx - 1), (1, 2))[:, 1:-1, 1:-1]
    assert not ((kernel > 0) & ~mask & near)[:, 1:-1, 1:-1].any()
    assert (mask.any((1, 2)) == kernel.any((1, 2))).all()
    assert_same(drop_components(out, fraction), out)


@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (-1, 2)])
@in_both_dtypes
def test_centering_undoes_a_shift(xp: Any, shift: tuple[int, int], dtype: str) -> None:
    kernel = np.pad([[1.0, 2, 1], [2, 5, 2], [1, 2, 1]], ((3, 3), (4, 4))).astype(dtype)
    kernels = xp.asarray(np.stack([np.roll(kernel, shift, (0, 1)), kernel]))
    out = center(kernels, kernels)
    assert out.dtype == dtype
    assert_same(out, np.stack([kernel, kernel]))


def test_centering_does_not_wrap_around(xp: Any) -> None:
    """The center of mass lies 1.6 columns left of the middle: all moves by 2, and what leaves the support is lost."""
    before, after = kernel_of("....... 444...1 ......."), kernel_of("....... ..444.. .......")
    for turn in (np.copy, np.transpose, np.fliplr):
        kernel = xp.asarray(turn(before).copy())
        assert_same(center(kernel, kernel), turn(after))


@settings(max_examples=50)
@given(hnp.arrays(np.float64, (3, 5, 7), elements=st.floats(-1, 1)), st.floats(0, 0.9), st.floats(0, 0.9))
def test_a_projection_is_a_kernel(kernel: np.ndarray, share: float, component: float) -> None:
    out = project(kernel, share=share, component=component)
    assert out.shape == kernel.shape
    assert (out >= 0).all()
    np.testing.assert_allclose(out.sum((-2, -1)), 1, rtol=1e-12)


def test_a_projection_is_centered_and_has_no_specks(xp: Any) -> None:
    """The center of mass of the block is 2.5 pixels left of the middle; exactly half a pixel is rounded to even."""
    kernel, expected = np.zeros((2, 11, 11))
    kernel[1:4, 2:4], kernel[9, 9], kernel[2, 5] = 1, 0.5, 0.01
    expected[4:7, 4:6] = 1 / 6
    assert_close(project(xp.asarray(kernel), share=0.05, component=0.1), expected, atol=1e-15)


@in_both_dtypes
def test_projecting_a_stack_equals_a_loop(xp: Any, dtype: str) -> None:
    kernels = strokes(4, dtype=dtype)
    kernels[1], kernels[2] = np.nan, 0
    together = project(xp.asarray(kernels), **LIMITS)
    folded = project(xp.asarray(kernels.reshape(2, 2, 11, 11)), **LIMITS)
    assert_same(folded.reshape(4, 11, 11), together)
    if xp is np or dtype == "float32":
        laws.assert_batch_is_loop(lambda k: project(k, **LIMITS), xp.asarray(kernels))
        return
    for kernel, alone in zip(together, kernels, strict=True):  # CuPy's own sums, whose order depends on the shape
        assert_close(kernel, project(xp.asarray(alone), **LIMITS), rtol=1e-14)


def test_a_projection_does_not_depend_on_scale(xp: Any) -> None:
    kernels = xp.asarray(strokes())
    before, expected = kernels.copy(), project(kernels, **LIMITS)
    assert_same(kernels, before)
    for scale in (2.0**-60, 2.0**40):  # powers of two: nothing is rounded
        assert_close(project(kernels * scale, **LIMITS), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_projection_of_infinite_values_is_a_delta(xp: Any, value: float) -> None:
    kernels = strokes(2)
    kernels[0, 1, 1], kernels[0, 5, 5] = value, np.inf
    out = project(xp.asarray(kernels), **LIMITS)
    assert_same(out[0], delta((11, 11)))
    assert_same(out[1], project(xp.asarray(kernels[1]), **LIMITS))


# ---- refinement

DEFAULTS: dict[str, Any] = {"weight": 1e-3, "beta": 0.05, "solver": "nnls", "iterations": 40}


def equations(xp: Any, n: int = 2, dtype: str = "float64", error: float = 0.0) -> Any:
    """(autocorrelation, rhs, kernel) of well-posed systems that `kernel` solves, but for `error` in rhs."""
    a = laws.system((9, 9), n)[0].astype(dtype)
    kernels = np.stack([trajectory_kernel(9, rng=i) for i in range(n)]).astype(dtype)
    rhs = toeplitz.toeplitz_apply(*toeplitz.toeplitz_spectrum(a), kernels)
    noise = np.random.default_rng(1).normal(size=rhs.shape).astype(dtype)
    return tuple(xp.asarray(x) for x in (a, rhs + error * abs(rhs).max() * noise, kernels))


def squared(error: Any) -> float:
    return float((error**2).sum())


@with_both_solvers
def test_the_solution_of_the_equations_is_a_fixed_point(xp: Any, solver: str) -> None:
    """Every pixel of it is above the threshold or zero."""
    a, _, kernels = equations(xp)
    kernels = threshold(kernels, 0.2)
    rhs = toeplitz.toeplitz_apply(*toeplitz.toeplitz_spectrum(a), kernels)
    assert_close(refine_kernel(a, rhs, kernels, **DEFAULTS | {"solver": solver, "beta": 0.1}), kernels, atol=1e-12)


@with_both_solvers
def test_the_solution_is_found_from_another_start(xp: Any, solver: str) -> None:
    a, rhs, kernels = equations(xp)
    start = kernels * 0.7 + 0.3 / 81
    out = refine_kernel(a, rhs, start, **DEFAULTS | {"weight": 1e-9, "solver": solver, "beta": 1e-3, "iterations": 100})
    assert squared(out - kernels) < 1e-2 * squared(start - kernels)


@with_both_solvers
def test_refinement_comes_closer_to_the_true_kernel(xp: Any, solver: str) -> None:
    """From equations with an error, and a start that is thick and noisy."""
    a, rhs, kernels = equations(xp, error=0.01)
    start = normalize(kernels + xp.asarray(0.01 * abs(np.random.default_rng(2).normal(size=kernels.shape))))
    out = refine_kernel(a, rhs, start, **DEFAULTS | {"solver": solver, "weight": 5e-3})
    before, after = (squared(project(k, **LIMITS) - kernels) for k in (start, out))
    assert after < 0.7 * before


@with_both_solvers
def test_a_larger_weight_gives_a_sparser_kernel(xp: Any, solver: str) -> None:
    arrays, counts = equations(xp, error=0.02), []
    for weight in (1e-6, 1e-3, 1e-1):
        out = refine_kernel(*arrays, **DEFAULTS | {"weight": weight, "solver": solver, "beta": 0.25})
        counts.append(int((abs(out) > 0.03 * out.max()).sum()))
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.mark.parametrize("change", [{"beta": 0.8}, {"solver": "cg"}, {"iterations": 2}, {"weight": 0.05}])
def test_every_parameter_of_the_refinement_matters(xp: Any, change: dict[str, Any]) -> None:
    a, rhs, kernels = equations(xp, error=0.02)
    first, second = (refine_kernel(a, rhs, normalize(kernels + 0.01), **o) for o in (DEFAULTS, DEFAULTS | change))
    assert float(abs(first - second).max()) > 1e-3 * float(first.max())


def test_beta_doubles_to_one_and_the_threshold_falls_with_it(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """r = k where k^2 >= weight / beta, on the scale where k has maximum 1 and a(0) is 1; b + beta r is solved."""
    a, rhs, kernels = equations(xp, n=1)
    scale, peak = toeplitz.zero_lag(a)[:, None, None], kernels.max()
    betas, splits = [], []

    def solve(a: Any, b: Any, k: Any, beta: float, *_: Any) -> Any:
        betas.append(beta)
        splits.append(to_host(b - rhs / (scale * peak)) / beta)
        return k

    monkeypatch.setattr(kernel_refine, "solve_kernel", solve)
    refine_kernel(a, rhs, kernels, **DEFAULTS | {"beta": 0.125, "weight": 0.01})
    np.testing.assert_allclose(betas, [0.125, 0.25, 0.5, 1])
    k = to_host(kernels / peak)
    for beta, split in zip(betas, splits, strict=True):
        np.testing.assert_allclose(split, np.where(k**2 >= 0.01 / beta, k, 0), atol=1e-12)
    assert len({int((split > 1e-9).sum()) for split in splits}) == 4


@with_both_solvers
def test_the_scale_of_equations_and_kernel_does_not_matter(xp: Any, solver: str) -> None:
    """Brighter images change the equations as a whole; a kernel in other units scales with its right-hand side."""
    a, rhs, kernels = equations(xp, error=0.02)
    options = DEFAULTS | {"solver": solver}
    out = to_host(refine_kernel(a, rhs, kernels, **options))
    assert_close(refine_kernel(a * 7, rhs * 7, kernels, **options), out, atol=1e-12)
    assert_close(refine_kernel(a, rhs * 5, kernels * 5, **options), out * 5, atol=1e-12)


@with_both_solvers
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_refining_a_stack_equals_a_loop(xp: Any, solver: str, dtype: str) -> None:
    """One system has NaN, one has no gradients: the kernel of a constant image stays finite, from zero too."""
    a, rhs, kernels = equations(xp, 5, dtype=dtype, error=0.02)
    rhs[1], a[2], rhs[2], a[3], rhs[3], kernels[3] = np.nan, 0, 0, 0, 0, 0
    before = [x.copy() for x in (a, rhs, kernels)]
    out = refine_kernel(a, rhs, kernels, **DEFAULTS | {"solver": solver})
    assert out.dtype == dtype
    for i in range(5):
        alone = refine_kernel(a[i], rhs[i], kernels[i], **DEFAULTS | {"solver": solver})
        if xp is np:
            assert_same(out[i], alone)
        else:  # a batched cuFFT may add in another order
            assert_close(out[i], alone, atol=1e-3 if dtype == "float32" else 1e-9)
    assert xp.isfinite(out[2:4]).all()
    for array, copy in zip((a, rhs, kernels), before, strict=True):
        assert_same(array, copy)
