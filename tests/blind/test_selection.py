"""Which kernel is right: the true one is preferred to others, and a picture's candidates are its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_same
from skimage import data

from gpudeblur.blind.selection import KernelScores, agreement, rank, score_kernels, take, take_scores
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, linear_kernel, trajectory_kernel

CAMERA = (data.camera() / 255).astype(np.float32)
TRUE = trajectory_kernel(17, rng=5).astype(np.float32)
OTHERS = {
    "turned": TRUE.T,
    "mirrored": TRUE[::-1, ::-1],
    "another": trajectory_kernel(17, rng=8).astype(np.float32),
    "a line": linear_kernel(15, 30, 17, dtype=np.float32),
    "even": np.full((17, 17), 1 / 289, dtype=np.float32),
}


def pictures() -> np.ndarray:
    return np.stack([blur(CAMERA[:220, :240], TRUE), blur(CAMERA[200:420, 200:440], TRUE)])


@pytest.mark.parametrize("name", OTHERS)
def test_the_true_kernel_scores_best(xp: Any, name: str) -> None:
    stack = xp.asarray(pictures())
    true, other = (
        score_kernels(stack, xp.asarray(np.stack([np.ascontiguousarray(k)] * 2)), xp.ones(2, dtype=stack.dtype))
        for k in (TRUE, OTHERS[name])
    )
    assert (to_host(true.score) > to_host(other.score)).all()
    assert to_host(rank([other, true]))[0].tolist() == [1, 1]


def test_a_batch_is_judged_as_a_loop() -> None:
    stack, kernels = pictures(), np.stack([TRUE, OTHERS["another"]])
    loud = np.array([1, 2], dtype=np.float32)
    together = score_kernels(stack, kernels, loud)
    for i in range(2):
        alone = score_kernels(stack[i : i + 1], kernels[i : i + 1], loud[i : i + 1])
        for field in ("energy", "match", "gain", "score"):
            assert_same(getattr(together, field)[i : i + 1], getattr(alone, field))


def test_brighter_pictures_keep_the_order(xp: Any) -> None:
    stack = xp.asarray(0.7 * pictures() + 0.1)
    judged = [
        score_kernels(stack, xp.asarray(np.stack([k] * 2)), xp.ones(2, dtype=stack.dtype))
        for k in (OTHERS["even"], TRUE)
    ]
    assert to_host(rank(judged))[0].tolist() == [1, 1]


def made(xp: Any, energy: list[float]) -> KernelScores:
    numbers = xp.asarray(energy)
    return KernelScores(numbers, xp.zeros_like(numbers), xp.ones_like(numbers), xp.ones_like(numbers))


def test_each_picture_has_an_order_of_its_own(xp: Any) -> None:
    judged = [made(xp, [1, 3, 2]), made(xp, [2, 1, 2]), made(xp, [3, 2, float("nan")])]
    places = rank(judged)
    assert to_host(places).tolist() == [[0, 1, 0], [1, 2, 1], [2, 0, 2]]  # of equals the first; NaN last
    arrays = [xp.full((3, 2), number) for number in range(3)]
    assert to_host(take(arrays, places[0])).tolist() == [[0, 0], [1, 1], [0, 0]]
    assert to_host(take_scores(judged, places[0]).energy).tolist() == [1, 1, 2]


def test_a_picture_with_nothing_in_it_disturbs_no_other() -> None:
    stack = pictures()
    stack[1] = 0.5
    kernels = np.stack([TRUE] * 2)
    loud = np.ones(2, dtype=np.float32)
    assert_same(score_kernels(stack, kernels, loud).score[:1], score_kernels(stack[:1], kernels[:1], loud[:1]).score)


def test_in_a_noisy_picture_the_energy_counts_for_less(xp: Any) -> None:
    energy, match = xp.asarray([-7.0, -7.0]), xp.asarray([0.5, 0.5])
    cut = KernelScores(energy - 0.1, match - 0.07, xp.ones(2), xp.asarray([1.0, 3.0]))
    whole = KernelScores(energy, match, xp.ones(2), xp.asarray([1.0, 3.0]))
    assert to_host(rank([whole, cut]))[0].tolist() == [1, 0]


def test_agreement_is_one_of_shifted_copies_and_less_of_others(xp: Any) -> None:
    kernel = np.zeros((2, 21, 21), dtype=np.float32)
    kernel[:, 2:19, 2:19] = TRUE
    moved = np.roll(kernel, (1, -2), (-2, -1))
    np.testing.assert_allclose(to_host(agreement(xp.asarray(kernel), [xp.asarray(moved)])), 1, rtol=1e-5)
    assert to_host(agreement(xp.asarray(kernel), [])).tolist() == [1, 1]
    other = np.zeros_like(kernel)
    other[:, 2:19, 2:19] = OTHERS["a line"]
    both = to_host(agreement(xp.asarray(kernel), [xp.asarray(moved), xp.asarray(other)]))
    alone = to_host(agreement(xp.asarray(kernel), [xp.asarray(other)]))
    assert (alone < 0.8).all()
    np.testing.assert_allclose(both, (1 + alone) / 2, rtol=1e-5)


def test_the_order_is_that_of_a_stable_sort(xp: Any) -> None:
    """Best first, of equals the first, NaN last; the best so many alone where so many are asked for."""
    random = np.random.default_rng(0)
    scores = random.integers(0, 4, (7, 50)).astype(np.float32)
    scores[random.random(scores.shape) < 0.1] = np.nan
    ones = np.ones(50, np.float32)
    judgements = [KernelScores(*map(xp.asarray, (0 * ones, score, ones, ones))) for score in scores]
    expected = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), axis=0, kind="stable")
    assert_same(rank(judgements), expected)
    assert_same(rank(judgements, 2), expected[:2])
    assert_same(take(list(map(xp.asarray, scores)), xp.asarray(expected[0])), scores[expected[0], np.arange(50)])
