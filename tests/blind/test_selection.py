"""Selection: the true kernel scores best, and each image has a ranking of its own."""

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
    "turned": np.ascontiguousarray(TRUE.T),
    "mirrored": np.ascontiguousarray(TRUE[::-1, ::-1]),
    "another": trajectory_kernel(17, rng=8).astype(np.float32),
    "a line": linear_kernel(15, 30, 17, dtype=np.float32),
    "even": np.full((17, 17), 1 / 289, dtype=np.float32),
}


def images() -> np.ndarray:
    return np.stack([blur(CAMERA[:220, :240], TRUE), blur(CAMERA[200:420, 200:440], TRUE)])


def scores_of(xp: Any, stack: np.ndarray, kernel: np.ndarray) -> KernelScores:
    kernels, ones = np.stack([kernel] * len(stack)), np.ones(len(stack), stack.dtype)
    return score_kernels(xp.asarray(stack), xp.asarray(kernels), xp.asarray(ones))


@pytest.mark.parametrize("name", OTHERS)
def test_the_true_kernel_scores_best(xp: Any, name: str) -> None:
    true, other = (scores_of(xp, images(), kernel) for kernel in (TRUE, OTHERS[name]))
    assert (to_host(true.score) > to_host(other.score)).all()
    assert to_host(rank([other, true]))[0].tolist() == [1, 1]


def test_brightness_and_contrast_keep_the_order(xp: Any) -> None:
    scores = [scores_of(xp, 0.7 * images() + 0.1, kernel) for kernel in (OTHERS["even"], TRUE)]
    assert to_host(rank(scores))[0].tolist() == [1, 1]


def test_scores_of_a_stack_equal_a_loop() -> None:
    stack = np.concatenate([images(), np.full((1, 204, 224), 0.5)]).astype(np.float32)[:, :100, :90]
    kernels, noise = np.stack([TRUE, OTHERS["another"], TRUE]), np.array([1, 2, 1], dtype=np.float32)
    together = score_kernels(stack, kernels, noise, judged=True)
    for i in range(3):
        alone = score_kernels(stack[i : i + 1], kernels[i : i + 1], noise[i : i + 1], judged=True)
        for field in ("energy", "match", "gain", "logit", "score"):
            assert_same(getattr(together, field)[i : i + 1], getattr(alone, field))


def test_the_order_is_that_of_a_stable_sort(xp: Any) -> None:
    """Best first, of equals the first, NaN last; the best few alone where a number is given."""
    random = np.random.default_rng(0)
    values = random.integers(0, 4, (7, 50)).astype(np.float32)
    values[random.random(values.shape) < 0.1] = np.nan
    ones = np.ones(50, np.float32)
    scores = [KernelScores(*map(xp.asarray, (0 * ones, value, ones, 0 * ones, ones))) for value in values]
    expected = np.argsort(-np.where(np.isnan(values), -np.inf, values), axis=0, kind="stable")
    assert_same(rank(scores), expected)
    assert_same(rank(scores, 2), expected[:2])
    best, first = xp.asarray(expected[0]), values[expected[0], np.arange(50)]
    assert_same(take_scores(scores, best).match, first)
    stacks = [xp.asarray(np.stack([value, -value], axis=-1)) for value in values]
    assert_same(take(stacks, best), np.stack([first, -first], axis=-1))


def test_the_judge_is_asked_about_small_images(xp: Any) -> None:
    scores = {}
    for judged, side in ((True, 100), (False, 100), (True, 101)):
        stack = xp.asarray(images()[:, :side, :side].astype(np.float32))
        kernels = xp.asarray(np.stack([TRUE] * 2).astype(np.float32))
        scores[judged, side] = score_kernels(stack, kernels, xp.ones(2, dtype=np.float32), judged=judged)
    asked, other = scores[True, 100], scores[False, 100]
    assert (to_host(asked.logit) != 0).all()
    assert not to_host(other.logit).any()
    assert not to_host(scores[True, 101].logit).any()
    difference = to_host(asked.score) - to_host(other.score)
    np.testing.assert_allclose(difference, 0.05 * to_host(asked.logit), atol=1e-5)


def test_energy_counts_for_less_in_a_noisy_image(xp: Any) -> None:
    energy, match, noise = xp.asarray([-7.0, -7.0]), xp.asarray([0.5, 0.5]), xp.asarray([1.0, 3.0])
    truncated = KernelScores(energy - 0.1, match - 0.07, xp.ones(2), xp.zeros(2), noise)
    whole = KernelScores(energy, match, xp.ones(2), xp.zeros(2), noise)
    assert to_host(rank([whole, truncated]))[0].tolist() == [1, 0]


def test_agreement_is_one_for_shifted_copies_and_less_for_others(xp: Any) -> None:
    kernel, other = np.zeros((2, 2, 21, 21), dtype=np.float32)
    kernel[:, 2:19, 2:19], other[:, 2:19, 2:19] = TRUE, OTHERS["a line"]
    kernel, other, moved = (xp.asarray(k) for k in (kernel, other, np.roll(kernel, (1, -2), (-2, -1))))
    np.testing.assert_allclose(to_host(agreement(kernel, [moved])), 1, rtol=1e-5)
    assert to_host(agreement(kernel, [])).tolist() == [1, 1]
    alone = to_host(agreement(kernel, [other]))
    assert (alone < 0.8).all()
    np.testing.assert_allclose(to_host(agreement(kernel, [moved, other])), (1 + alone) / 2, rtol=1e-5)
