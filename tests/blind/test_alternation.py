"""Coarse to fine: what is planned for each scale, and what a start makes of a picture."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_same
from skimage.data import camera

from gpudeblur.blind import alternation
from gpudeblur.blind.alternation import coarse_to_fine, has_gradients
from gpudeblur.blind.options import STARTS, TwoStepOptions
from gpudeblur.blind.pyramid import support_size
from gpudeblur.blind.schedule import schedule
from gpudeblur.metrics import kernel_similarity
from gpudeblur.numerics import chunks
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.chunks import map_in_chunks
from gpudeblur.numerics.progress import subrange
from gpudeblur.synthesis import blur, trajectory_kernel

QUICK = TwoStepOptions(iterations=2, kernel_iterations=10)
OPTIONS = st.builds(
    TwoStepOptions,
    iterations=st.integers(1, 9),
    gradient_weight_decay=st.floats(1, 2),
    scale_ratio=st.floats(0.4, 0.9),
    edge_fraction=st.sampled_from([(0.05, 0.2), (0.2, 0.2), (0.6, 0.3)]),
    iteration_threshold=st.sampled_from([(0.0, 0.0), (0.2, 0.02), (0.1, 0.1), (0.02, 0.2)]),
    support_margin=st.sampled_from([0, 2, 6]),
)
SIDES = st.integers(1, 30).map(lambda i: 2 * i + 1)


def nothing(_: float) -> None:
    pass


def photo(side: int = 64, kernel_size: int = 9, seed: int = 1) -> np.ndarray:
    sharp = camera()[100:, 180:][: side + kernel_size - 1, : side + kernel_size - 1] / 255
    return blur(sharp, trajectory_kernel(kernel_size, rng=seed)).astype(np.float32)


# ---- the schedule


@given(OPTIONS, SIDES, SIDES, st.integers(61, 300), st.integers(61, 300))
def test_sizes_rise_to_the_whole_picture(options: TwoStepOptions, kh: int, kw: int, h: int, w: int) -> None:
    scales = schedule((h, w), (kh, kw), options)
    support = support_size((kh, kw), (h, w), options.support_margin)
    assert scales[-1].shape == (h, w)
    assert scales[-1].size == tuple(max(side, options.smallest_kernel) for side in support)
    assert scales[0].factor == 1
    for coarse, fine in itertools.pairwise(scales):
        assert coarse.shape < fine.shape
        assert all(a <= b for a, b in zip(coarse.shape, fine.shape, strict=True))
        assert all(a <= b for a, b in zip(coarse.size, fine.size, strict=True))
        assert fine.factor == pytest.approx(1 / options.scale_ratio)
        assert fine.smooth_sigma == pytest.approx(coarse.smooth_sigma + options.smooth_sigma)
    for scale in scales:
        assert len(scale.iterations) == options.iterations
        assert all(side % 2 == 1 for side in scale.size)


@given(OPTIONS, SIDES)
def test_weights_run_between_their_ends(options: TwoStepOptions, side: int) -> None:
    """lambda decays without a break between scales, and stays at its minimum; the shares end where they should."""
    iterations = [one for scale in schedule((200, 180), (side, side), options) for one in scale.iterations]
    weights = [one.gradient_weight for one in iterations]
    assert weights[0] == options.gradient_weight
    for before, after in itertools.pairwise(weights):
        assert after == max(before / options.gradient_weight_decay, options.gradient_weight_min)
    check_way([one.share for one in iterations], options.edge_fraction, closed=False)
    if options.iteration_threshold == (0, 0):
        assert {one.cut for one in iterations} == {0}
    else:
        check_way([one.cut for one in iterations], options.iteration_threshold, closed=True)


def check_way(values: list[float], ends: tuple[float, float], *, closed: bool) -> None:
    """From the first end towards the last, which it reaches if `closed`."""
    first, last = ends
    assert values[0] == first
    assert (np.diff(values) * (last - first) >= 0).all()
    low, high = min(ends) * (1 - 1e-12), max(ends) * (1 + 1e-12)
    assert all(low <= value <= high for value in values)
    if closed and len(values) > 1:
        assert values[-1] == pytest.approx(last)
    elif first != last:
        assert values[-1] != last


def test_a_part_of_the_progress() -> None:
    told: list[float] = []
    report = subrange(told.append, 0.5, 0.25)
    report(0)
    subrange(report, 0.5, 0.5)(0.5)
    report(1)
    assert told == [0.5, 0.6875, 0.75]


# ---- in_cache


@pytest.mark.parametrize("together", [1, 2, 3, 7, 100])
def test_parts_are_the_whole_bit_for_bit(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(chunks, "CACHE_PIXELS", together * 12)
    rng, sizes = np.random.default_rng(0), []
    pictures, kernels = rng.random((7, 3, 4)), rng.random((7, 5))

    def function(pictures: np.ndarray, kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(pictures))
        return np.fft.fft2(pictures), kernels.cumsum(axis=-1)

    found = map_in_chunks(function, pictures, kernels)
    assert sizes == [together] * (7 // together) + ([7 % together] if 7 % together else [])
    for one, other in zip(found, function(pictures, kernels), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_picture_larger_than_the_cache_is_taken_whole() -> None:
    large = np.zeros((2, 1, chunks.CACHE_PIXELS + 1), np.float32)
    (found,) = map_in_chunks(lambda stack: (stack.shape[:1] * np.ones(len(stack)),), large)
    assert found.tolist() == [1, 1]


# ---- a start


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(3, 3), (7, 7), (9, 13), (15, 5), (31, 31)])
@pytest.mark.parametrize("name", STARTS)
def test_a_start_gives_kernels(xp: Any, name: str, size: tuple[int, int], dtype: str) -> None:
    stack = xp.asarray(np.stack([photo(48, seed=1), photo(48, seed=2)]).astype(dtype))
    kernel = coarse_to_fine(stack, size, QUICK.of_start(name), nothing)
    assert kernel.shape == (2, *size)
    assert kernel.dtype == dtype
    host = to_host(kernel)
    assert (host >= 0).all()
    np.testing.assert_allclose(host.sum(axis=(-2, -1)), 1, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 3), (9, 13)])
@pytest.mark.parametrize("name", STARTS)
def test_a_picture_that_says_nothing_gives_a_delta(xp: Any, name: str, size: tuple[int, int]) -> None:
    """Beside one that does."""
    stack = xp.asarray(np.stack([photo(48), np.full((48, 48), 0.3, np.float32), np.zeros((48, 48), np.float32)]))
    kernel = to_host(coarse_to_fine(stack, size, QUICK.of_start(name), nothing))
    delta = np.zeros(size)
    delta[size[0] // 2, size[1] // 2] = 1
    for constant in kernel[1:]:
        np.testing.assert_array_equal(constant, delta)
    assert kernel[0].max() < 0.9


@pytest.mark.parametrize("name", STARTS)
def test_a_start_on_a_batch_is_a_loop(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Bit for bit, however many are taken together."""
    stack = np.stack([photo(40, seed=seed) for seed in range(4)] + [np.full((40, 40), 0.5, np.float32)])
    options = QUICK.of_start(name)
    alone = np.stack([coarse_to_fine(picture[None], (9, 9), options, nothing)[0] for picture in stack])
    for together in (1, 2, 100):
        monkeypatch.setattr(chunks, "CACHE_PIXELS", together * 40 * 40)
        assert_same(coarse_to_fine(stack, (9, 9), options, nothing), alone)


def test_a_start_is_near_the_kernel(xp: Any) -> None:
    true = trajectory_kernel(13, rng=1)
    picture = xp.asarray(photo(200, 13))[None]
    found = to_host(coarse_to_fine(picture, (13, 13), TwoStepOptions(), nothing))[0]
    assert kernel_similarity(found, true) > 0.75


def test_what_a_start_does_not_depend_on(xp: Any) -> None:
    """The finest scale and what comes after it."""
    stack = xp.asarray(photo(48)[None])
    others = {"finest_iterations": 9, "finest_gradient_weight": (1.0, 1.0), "refine": False, "finest_candidates": 1}
    changed = dataclasses.replace(QUICK, **others, starts=("text",))
    assert_same(coarse_to_fine(stack, (9, 9), changed, nothing), coarse_to_fine(stack, (9, 9), QUICK, nothing))


def test_a_start_tells_of_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CACHE_PIXELS", 2 * 48 * 48)
    told: list[float] = []
    coarse_to_fine(np.stack([photo(48)] * 5), (31, 31), QUICK, told.append)
    assert told == sorted(told)
    assert told[0] > 0
    assert told[-1] == pytest.approx(1)
    assert len(told) >= 2 * (len(schedule((48, 48), (31, 31), QUICK)) - 1)


def test_a_start_may_be_stopped() -> None:
    class Stop(Exception):
        pass

    def report(_: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        coarse_to_fine(photo(48)[None], (9, 9), QUICK, report)


# ---- what is known


def test_rounding_is_no_gradient(xp: Any) -> None:
    a = xp.zeros((3, 5, 7))
    a[:, 2, 3] = xp.asarray([0.0, 100 * alternation.NO_GRADIENT**2 * 0.9, 100 * alternation.NO_GRADIENT**2 * 1.1])
    assert to_host(has_gradients(a, 100)).tolist() == [False, False, True]
