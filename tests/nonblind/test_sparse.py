"""The sparse prior: its derivatives, its objective, its conjugate gradients."""

from __future__ import annotations

from typing import Any

import laws
import numpy as np
import pytest
from laws import assert_close
from skimage import data

from gpudeblur.nonblind.methods.sparse import derivatives, derivatives_adjoint, sparse
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.conjugate_gradient import conjugate_gradient
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(11, rng=3)
SCENE = data.camera()[100:196, 200:310] / 255


def blurred_picture(noise: float = 2e-3) -> np.ndarray:
    return blur(SCENE, KERNEL, noise_sigma=noise, rng=0)


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


@pytest.mark.slow
def test_more_iterations_come_closer_to_the_solution(xp: Any) -> None:
    arrays = xp.asarray(blurred_picture()[:40, :48].copy()), xp.asarray(KERNEL)
    solution = sparse(*arrays, reweightings=0, iterations=400)
    errors = [float(((sparse(*arrays, reweightings=0, iterations=n) - solution) ** 2).sum()) for n in (5, 25, 100)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.slow
def test_a_few_steps_do_where_little_is_unseen(xp: Any) -> None:
    """The preconditioner solves the periodic case; the steps add the border and the variation of the weights."""
    arrays = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    solution, few = (to_host(sparse(*arrays, reweightings=0, iterations=n)) for n in (400, 8))
    assert np.sqrt(((few - solution)[20:-20, 20:-20] ** 2).mean()) < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_sparse_has_small_pictures(xp: Any, size: tuple[int, int]) -> None:
    u = xp.asarray(np.random.default_rng(0).random(size))
    assert_close(sparse(u, xp.ones((1, 1)), weight=1e-9), u, atol=1e-4)


@pytest.mark.parametrize("preconditioned", [True, False])
def test_conjugate_gradients_with_the_inverse_take_one_step(xp: Any, preconditioned: bool) -> None:
    """Two systems in one call; without it, as many steps as there are different eigenvalues."""
    random = np.random.default_rng(0)
    diagonal = xp.asarray(random.choice([1.0, 2.0, 7.0], (2, 5, 4)))
    rhs = xp.asarray(random.normal(size=(2, 5, 4)))
    options: dict[str, Any] = {"preconditioner": lambda r: r / diagonal} if preconditioned else {}
    solution = conjugate_gradient(
        lambda u: diagonal * u, rhs, xp.zeros_like(rhs), 1 if preconditioned else 3, **options
    )
    assert_close(solution, to_host(rhs / diagonal), atol=1e-12)
