"""The bench of a rotating camera: its cases follow their recipes, and its figures are what they are called."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bench import rotation
from bench.figures import CROP, GAP, TITLE, sheet
from bench.rotation_cases import (
    FOCALS,
    KOEHLER_FRAMES,
    KOEHLER_PATHS,
    MARGIN,
    ROLLS,
    KoehlerCase,
    best_psnr,
    control_cases,
    koehler_cases,
    koehler_path,
    rolled,
    rotation_cases,
)
from gpudeblur.numerics.poses import corner_radius, displacement, node_points
from gpudeblur.synthesis import blur_by_poses


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


def test_the_paths_of_the_koehler_set() -> None:
    """They cover rolls and focal lengths evenly, stay inside the photographs of BSDS, and ignore their orientation."""
    upright, wide = (481 - 2 * MARGIN, 321 - 2 * MARGIN), (321 - 2 * MARGIN, 481 - 2 * MARGIN)
    paths = [koehler_path(number, wide) for number in range(KOEHLER_PATHS)]
    pairs = [(roll, round(focal / max(wide), 9)) for _, roll, focal in paths]
    assert len(set(pairs)) == KOEHLER_PATHS
    for values, column in zip((ROLLS, FOCALS), zip(*pairs, strict=True), strict=True):
        assert sorted(column) == sorted(values * (KOEHLER_PATHS // 4))
    for number, (path, roll, focal) in enumerate(paths):
        assert 12 <= np.ptp(path[:, :2], axis=0).max() <= 25
        assert np.ptp(path[:, 2]) * corner_radius(wide) == pytest.approx(roll)
        np.testing.assert_array_equal(koehler_path(number, upright)[0], path)
        for shape in (upright, wide):
            assert abs(displacement(path, node_points((3, 3), shape), shape, focal)).max() < MARGIN


@pytest.fixture(scope="module")
def koehler(data: Path) -> KoehlerCase:
    return next(koehler_cases(data))


def test_a_koehler_case_is_scored_by_its_best_frame(koehler: KoehlerCase) -> None:
    path, _, focal = koehler_path(0, koehler.sharp.shape)
    np.testing.assert_array_equal(koehler.path, path)
    assert len(koehler.frames) == KOEHLER_FRAMES
    for frame, pose in ((koehler.frames[0], path[:1]), (koehler.frames[-1], path[-1:])):
        np.testing.assert_array_equal(frame, blur_by_poses(koehler.photograph, pose, focal, margin=MARGIN))
    for frame in koehler.frames[::13]:
        assert koehler.score(frame) > 100
        assert koehler.score(np.roll(frame, (9, -12), (0, 1))) > 100
    assert koehler.score(koehler.blurred) < 60


def test_a_sheet(koehler: KoehlerCase) -> None:
    names = ("blurred", "uniform", "rotation", "true")
    kernels: dict[str, Any] = {
        "uniform": np.ones((5, 7)),
        "rotation": rotation.true_field(koehler),
        "true": np.ones((1, 1)),
    }
    rows = rotation.drawing(koehler, dict.fromkeys(names, koehler.blurred), dict.fromkeys(names, 30.0), kernels)
    (titles, pictures), (_, drawn) = rows
    assert titles == [koehler.name, *(f"{name} 30.00 dB" for name in names)]
    assert {picture.size for picture in pictures if picture} == {koehler.sharp.shape[::-1]}
    assert [kernel is None for kernel in drawn] == [True, True, False, False, False]
    page = sheet(rows)
    assert page.size == (5 * CROP + 6 * GAP, 2 * (TITLE + CROP) + 3 * GAP)
    taller = rows[0][0], [picture and picture.resize((CROP + 9, CROP + 30)) for picture in pictures]
    assert sheet([taller, rows[1]]).size == (page.width + 5 * 9, page.height + 30)


def test_a_sheet_needs_a_file_and_something_to_draw(data: Path, tmp_path: Path, capsys: Any) -> None:
    assert rotation.sheet_file(str(tmp_path / "a.png")) == tmp_path / "a.png"
    for text in (tmp_path / "a.gif", tmp_path / "none" / "a.png"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"\.png or \.jpg in a folder that exists"):
            rotation.sheet_file(str(text))
    with pytest.raises(SystemExit):
        rotation.main(["--data", str(data), "--sets", "known", "--sheet", str(tmp_path / "a.png")])
    assert "nothing to draw" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(
    data: Path, koehler: KoehlerCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """On one case of the set "koehler", with a kernel of which six fit into it."""
    monkeypatch.setattr(rotation, "KERNEL_SIZE", 21)
    monkeypatch.setenv("GPUDEBLUR_RESULTS", str(tmp_path))
    monkeypatch.setitem(rotation.SETS, "koehler", lambda *_: iter([koehler]))
    options = json.dumps({"starts": ["wide"]})
    argv = ["--data", str(data), "--jobs", "0", "--sets", "koehler", "--sheet", str(tmp_path / "a.png")]
    rotation.main([*argv, "--options", options])
    assert koehler.name in capsys.readouterr().out
    with (tmp_path / "rotation.jsonl").open() as file:
        (line,) = (json.loads(text) for text in file)
    assert (line["set"], line["totals"]["n"]) == ("koehler", 1)
    assert line["rows"][0]["blurred"] == pytest.approx(koehler.score(koehler.blurred), abs=1e-3)
    assert "drawing" not in line["rows"][0]
    assert iio.imread(tmp_path / "a.png").shape[1] == 5 * CROP + 6 * GAP


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
