"""The race between initializations at a coarse scale."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from skimage import data

import gpudeblur as gd
from gpudeblur.blind.racing import (
    RACE_DISTANCE,
    RACE_SURVIVORS,
    Entry,
    Rival,
    at_scale,
    race,
    race_distance,
    race_survivors,
    score_rival,
)
from gpudeblur.blind.schedule import schedule
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

CAMERA = (data.camera() / 255).astype(np.float32)[80:172, 120:212]
KERNEL = trajectory_kernel(13, rng=3).astype(np.float32)
IMAGES = np.stack([blur(CAMERA, KERNEL), blur(CAMERA[::-1], KERNEL), np.full((80, 80), 0.5, np.float32)])
OPTIONS = gd.TwoStepOptions(iterations=2, finest_iterations=1)


def no_report(fraction: float) -> None:
    pass


@pytest.mark.parametrize("side", [7, 9, 13, 35])
def test_all_entries_race_at_one_scale(side: int) -> None:
    entries, shape = [Entry(name, (side, side)) for name in OPTIONS.starts], (230, 210)
    distance = race_distance(shape, entries, OPTIONS)
    scales = [schedule(shape, entry.size, OPTIONS.of_start(entry.name)) for entry in entries]
    assert distance == min(RACE_DISTANCE, min(map(len, scales)) - 1)
    assert len({entry_scales[len(entry_scales) - 1 - distance].shape for entry_scales in scales}) == 1


def test_of_small_images_all_go_on() -> None:
    entries = [Entry("wide", (35, 35))]
    assert [race_distance((side, 300), entries, OPTIONS) for side in (250, 198, 60)] == [2, 1, 1]
    assert [race_survivors(5, (side, 300), entries, OPTIONS) for side in (250, 198)] == [RACE_SURVIVORS, 5]
    assert [race_survivors(count, (250, 300), entries, OPTIONS) for count in (1, 2)] == [1, 2]
    assert race_survivors(5, (250, 300), entries, dataclasses.replace(OPTIONS, finest_candidates=4)) == 4


def test_a_race_of_a_stack_equals_those_of_its_images(xp: Any) -> None:
    """Windows of several sizes end in the largest; an image without gradients has a delta."""
    entries = [Entry("wide", (13, 13)), Entry("compact", (21, 21))]

    def outcome(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stack = xp.asarray(images)
        noise = xp.ones(len(images), dtype=xp.float32)
        kernels, scores = race(lambda _: stack, stack, noise, entries, OPTIONS, no_report)
        return to_host(xp.stack(kernels)), to_host(xp.stack([score.energy for score in scores]))

    kernels, energies = outcome(IMAGES)
    np.testing.assert_allclose(kernels.sum(axis=(-2, -1)), 1, rtol=1e-5)
    assert (kernels[:, 2].max(axis=(-2, -1)) == 1).all()
    for i in range(2):
        alone, energy = outcome(IMAGES[i : i + 1])
        np.testing.assert_allclose(alone[:, 0], kernels[:, i], atol=0 if xp is np else 1e-3)
        np.testing.assert_allclose(energy[:, 0], energies[:, i], atol=0 if xp is np else 1e-3)


def test_noise_falls_with_the_scale(xp: Any) -> None:
    scale = schedule((80, 80), (13, 13), OPTIONS)[-3]
    images, noise = at_scale(xp.asarray(IMAGES), xp.asarray([1, 1.5, 4], dtype=xp.float32), scale)
    assert images.shape == (3, 40, 40)
    assert to_host(noise).tolist() == pytest.approx([1, 1, 2])
    assert float(images[2].mean()) == pytest.approx(0.25)


def test_a_rival_is_judged_at_the_scale_of_the_race(xp: Any) -> None:
    """A kernel of full size and that kernel at the race's scale get nearly the same score, and a wrong one a worse."""
    scale = schedule((80, 80), (13, 13), OPTIONS)[-3]
    assert scale.ratio == pytest.approx(0.5)
    stack, noise = xp.asarray(IMAGES[:1]), xp.ones(1, dtype=xp.float32)
    scores = []
    for kernel in (KERNEL, KERNEL[::-1].T):
        rival = Rival(xp.asarray(np.ascontiguousarray(kernel)[None]), 1.0)
        at_race, score = score_rival(rival, stack, noise, scale)
        again, same = score_rival(Rival(at_race, scale.ratio), stack, noise, scale)
        np.testing.assert_allclose(to_host(again), to_host(at_race), rtol=1e-5)
        assert float(same.score[0]) == pytest.approx(float(score.score[0]), rel=1e-4)
        scores.append(float(score.score[0]))
    assert scores[0] > scores[1]
