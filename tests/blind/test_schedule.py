"""The schedule: every number of every scale and iteration, from the options alone."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudeblur.blind.options import STARTS, TwoStepOptions
from gpudeblur.blind.pyramid import support_size
from gpudeblur.blind.schedule import (
    finest_options,
    finest_runs,
    finest_scale,
    schedule,
)
from gpudeblur.priors import L0Intensity

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


@settings(max_examples=50)
@given(OPTIONS, SIDES, SIDES, st.integers(61, 300), st.integers(61, 300))
def test_sizes_rise_to_the_whole_image(options: TwoStepOptions, kh: int, kw: int, h: int, w: int) -> None:
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
    for level, scale in enumerate(scales, start=1):
        assert len(scale.iterations) == options.iterations
        assert all(side % 2 == 1 for side in scale.size)
        assert scale.smooth_sigma == pytest.approx(level * options.smooth_sigma)
        assert scale.beta_max == options.beta_max


@settings(max_examples=50)
@given(OPTIONS, SIDES)
def test_weights_run_between_their_ends(options: TwoStepOptions, side: int) -> None:
    """lambda decays without a break between scales, and stays at its minimum; the fractions end where they should."""
    iterations = [i for scale in schedule((200, 180), (side, side), options) for i in scale.iterations]
    weights = [i.gradient_weight for i in iterations]
    assert weights[0] == options.gradient_weight
    for before, after in itertools.pairwise(weights):
        assert after == max(before / options.gradient_weight_decay, options.gradient_weight_min)
    check_course([i.edge_fraction for i in iterations], options.edge_fraction, closed=False)
    if options.iteration_threshold == (0, 0):
        assert {i.threshold for i in iterations} == {0}
    else:
        check_course([i.threshold for i in iterations], options.iteration_threshold, closed=True)


def check_course(values: list[float], ends: tuple[float, float], *, closed: bool) -> None:
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


def test_the_finest_scale_has_numbers_of_its_own() -> None:
    options = TwoStepOptions(
        finest_iterations=3,
        finest_gradient_weight=(4e-3, 1e-3),
        finest_beta_max=77.0,
        edge_fraction=(0.1, 0.3),
        iteration_threshold=(0.2, 0.05),
    )
    scale = finest_scale((64, 60), (11, 7), options)
    assert (scale.shape, scale.size, scale.factor, scale.beta_max) == ((64, 60), (13, 9), 1.0, 77.0)
    assert [i.gradient_weight for i in scale.iterations] == pytest.approx([4e-3, 2e-3, 1e-3])
    assert {(i.edge_fraction, i.threshold) for i in scale.iterations} == {(0.3, 0.05)}
    single = finest_scale((64, 60), (11, 7), dataclasses.replace(options, finest_iterations=1))
    assert [i.gradient_weight for i in single.iterations] == [4e-3]


@pytest.mark.parametrize("candidates", [1, 2, 5])
def test_every_candidate_runs_with_both_finest_variants(candidates: int) -> None:
    options = TwoStepOptions(starts=("wide", "text"), finest_candidates=candidates)
    assert [variant.iteration_threshold for variant in finest_options(options)] == [(0, 0), (0.1, 0.1)]
    assert finest_runs(options) == 2 * min(2, candidates)
    assert finest_runs(dataclasses.replace(options, starts=("text",))) == 1  # nothing to choose from


def test_priors_are_off_at_the_finest_scale_unless_asked_for() -> None:
    prior = L0Intensity()
    for finest_prior, expected in ((False, None), (True, prior)):
        options = TwoStepOptions(smooth_weight=0.1, prior=prior, finest_prior=finest_prior)
        assert {(variant.smooth_weight, variant.prior) for variant in finest_options(options)} == {(0.0, expected)}


@pytest.mark.parametrize("name", STARTS)
def test_an_initialization_overrides_the_options(name: str) -> None:
    options = TwoStepOptions(iterations=3, kernel_weight=0.5)
    assert options.of_start(name) == dataclasses.replace(options, **STARTS[name])
    assert options.of_start(name).iterations == 3
