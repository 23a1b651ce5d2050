"""The bench of a rotating camera: its cases follow their recipes, and its figures are what they are called."""

from __future__ import annotations

import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bench import rotation
from bench.rotation_cases import FOCALS, MARGIN, ROLLS, best_psnr, control_cases, rolled, rotation_cases
from gpudeblur.numerics.poses import corner_radius


def photograph(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).random((200, 230)), 2)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "natural" / "val").mkdir(parents=True)
    for i in range(4):
        iio.imwrite(folder / "natural" / "val" / f"{i}.jpg", photograph(i))
    return folder


def test_the_cases(data: Path) -> None:
    cases = list(rotation_cases(data, count=4))
    assert [case.roll for case in cases] == list(ROLLS)
    assert {case.focal / 158 for case in cases} == set(FOCALS)
    for case in cases:
        assert case.blurred.shape == case.sharp.shape == (200 - 2 * MARGIN, 230 - 2 * MARGIN)
        np.testing.assert_array_equal(case.blurred * 255, np.round(case.blurred * 255))
        assert np.ptp(case.path[:, 2]) * corner_radius(case.sharp.shape) == pytest.approx(case.roll)
        assert 12 <= np.ptp(case.path[:, :2], axis=0).max() <= 25
        assert len(rotation.true_field(case).kernels) >= 1
    again = next(rotation_cases(data, count=4))
    np.testing.assert_array_equal(again.blurred, cases[0].blurred)


def test_the_controls(data: Path) -> None:
    for case in control_cases(data, count=2):
        assert case.kernel.sum() == pytest.approx(1)
        assert case.blurred.shape == case.sharp.shape
        assert rotation.true_field(case).kernels.shape[:2] == (1, 1)


def test_a_score_ignores_shifts_and_small_rolls() -> None:
    image = photograph(0) / 255
    assert best_psnr(np.roll(image, (2, -3), (0, 1)), image) > 100
    angle = 0.5 / (math.hypot(*image.shape) / 2)
    assert best_psnr(rolled(image, -angle), image) > best_psnr(rolled(image, -3 * angle), image) + 5


def test_totals() -> None:
    rows = [
        {"name": str(i), "picture": str(i), "gain": gain, "kept": kept, "s": 2.0, "s uniform": 1.0}
        | dict.fromkeys(("blurred", "uniform", "rotation", "true"), 30.0)
        for i, (gain, kept) in enumerate([(1.0, "rotation"), (0.0, "uniform"), (-0.5, "rotation"), (0.0, "uniform")])
    ]
    total = rotation.totals(rows)
    assert (total["n"], total["kept"], total["better"], total["gain_min"]) == (4, 0.5, 0.25, -0.5)
    assert total["gain_mean"] == pytest.approx(0.125)
