"""The bench of the face networks: its sets follow their recipes, and its figures are what they are called."""

from __future__ import annotations

import dataclasses
import io
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpudeblur.metrics import psnr
from gpudeblur.synthesis import blur, trajectory_kernel

pytest.importorskip("pytest_benchmark")
from bench import __main__, face_cases, face_report, faces
from bench.face_cases import SETS, SIDES, FaceCase

Sets = dict[str, list[FaceCase]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a few pictures of each kind."""
    import imageio.v3 as iio
    from scipy.io import savemat

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, stems, shape in (
        ("faces", ("007500", "007501", "007700", "007901", "007902", "008000"), (109, 89, 3)),
        ("natural/val", ("101", "102"), (150, 170, 3)),
        ("natural/train", ("201",), (150, 170, 3)),
        ("faces_hq", ("000001",), (64, 64, 3)),
    ):
        (folder / name).mkdir(parents=True)
        for stem in stems:
            smooth = blur(rng.random((3, *shape[:2])), np.full((5, 5), 1 / 25), mode="same")
            iio.imwrite(folder / name / f"{stem}.jpg", np.uint8(255 * np.moveaxis(smooth, 0, -1)))
    (folder / "levin").mkdir()
    for number in range(1, 9):
        f = np.roll(trajectory_kernel(2 * number + 5, rng=number), 1, axis=0)
        savemat(folder / "levin" / f"im01_ker{number:02d}.mat", {"f": f})
    return folder


@pytest.fixture(scope="module")
def sets(data: Path) -> Sets:
    return {name: list(cases_of(data, False, None)) for name, cases_of in SETS.items()}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GPUDEBLUR_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


# ------------------------------------------------------------------ sets
def test_the_sets_follow_their_recipes(sets: Sets) -> None:
    assert {name: len(cases) for name, cases in sets.items()} == {
        "A": 3 * 6, "B": 2 * 15, "C": 3, "D": 3 * 2, "E": 2 * (2 + 2 + 10), "F": 2 * 4, "G": 3 * 7,
    }  # fmt: skip
    everything = [case for cases in sets.values() for case in cases]
    assert len({case.name for case in everything}) == len(everything)
    for case in everything:
        assert case.blurred.shape == case.sharp.shape, case.name
        assert case.kernel.sum() == pytest.approx(1), case.name
        assert all(size % 2 == 1 for size in case.map_size), case.name
        assert case.group, case.name
        if case.is_sharp:
            level = min(psnr(case.blurred, case.sharp), 100)  # but for rounding, they are equal
            assert level == pytest.approx(40 if case.noise_sigma else 100, abs=0.3)
    for name in "ACDG":
        assert {case.picture for case in sets[name]} == {"007901", "007902", "008000"}
    for case in sets["A"]:
        side = case.kernel.shape[0]
        assert case.blurred.shape == (110 - side, 90 - side, 3)
        assert case.map_size == (side + 4, side + 4)
    assert {case.blurred.shape for case in sets["G"]} == {(109, 89, 3)}
    assert {case.blurred.shape for case in sets["F"]} == {(128, 128, 3), (240, 200, 3)}
    assert {case.blurred.shape for case in sets["E"] if case.group.startswith("crops")} == {(112, 96, 3)}
    groups = {name: list(dict.fromkeys(case.group for case in cases)) for name, cases in sets.items()}
    for name, rows in face_cases.TOGETHER.items():
        assert set().union(*rows.values()) <= set(groups[name])


@pytest.mark.parametrize("name", ["A", "B", "E", "F", "G"])
def test_the_blurred_picture_is_the_sharp_one_under_the_kernel(sets: Sets, name: str) -> None:
    """And noise of the given strength, or steps of 8 bits."""
    for case in [case for case in sets[name] if not case.is_sharp][:6]:
        sharp = np.moveaxis(case.sharp, -1, 0) if case.channel_axis == -1 else case.sharp
        again = blur(sharp, case.kernel)
        again = np.moveaxis(again, 0, -1) if case.channel_axis == -1 else again
        r, c = (side // 2 for side in case.kernel.shape)
        inside = case.blurred[r : case.blurred.shape[0] - r, c : case.blurred.shape[1] - c]
        assert (inside - again).std() == pytest.approx(case.noise_sigma or 0.0011, rel=0.15), case.name


def test_a_case_depends_on_its_name_alone(data: Path, sets: Sets) -> None:
    for name, cases_of in SETS.items():
        few = list(cases_of(data, False, 1))
        assert 0 < len(few) < len(sets[name]) or name == "F"
        full = {case.name: dataclasses.asdict(case) for case in sets[name]}
        for case in few:
            np.testing.assert_equal(dataclasses.asdict(case), full[case.name])


def test_pictures_to_choose_by_are_others(data: Path, sets: Sets) -> None:
    for name in SETS.keys() - set(face_cases.NOT_TO_CHOOSE_BY):
        pictures = {case.picture for case in SETS[name](data, True, None)}
        reported = {case.picture for case in sets[name]}
        assert {picture for picture in pictures & reported if not picture.startswith("text")} == set()
    assert {case.picture for case in SETS["A"](data, True, None)} == {"007501", "007700"}


def test_kernels_are_centred_and_half_of_each_kind(sets: Sets) -> None:
    def off_centre(kernel: np.ndarray) -> float:
        sums = (kernel.sum(axis=1 - axis) for axis in (0, 1))
        return max(abs(float(profile @ np.arange(len(profile))) - len(profile) // 2) for profile in sums)

    assert all(off_centre(case.kernel) <= 2 for name in "AG" for case in sets[name])  # as synthesis says
    centred = [case for case in sets["B"] if case.group == "centred"]
    measured = [case for case in sets["B"] if case.group == "as measured"]
    assert max(off_centre(case.kernel) for case in centred) <= 0.5 < max(off_centre(case.kernel) for case in measured)
    for case, original in zip(centred, measured, strict=True):
        assert case.picture == original.picture
        np.testing.assert_allclose(np.sort(case.kernel[case.kernel > 0]), np.sort(original.kernel[original.kernel > 0]))
    for number, kind in ((0, trajectory_kernel), (1, face_cases.gaussian_process_kernel)):
        seed = face_cases.name_seed("name_kernel")
        np.testing.assert_array_equal(face_cases.own_kernel("name", 9, number), kind(9, rng=seed))


def test_kernels_are_none_of_training(sets: Sets) -> None:
    pytest.importorskip("torch")
    from gpudeblur.networks.training.data import RestorationConfig, make_kernels

    pool, _ = make_kernels(RestorationConfig(pool=200))
    pool /= np.linalg.norm(pool, axis=(1, 2), keepdims=True)
    own = [case.kernel for case in sets["A"] + sets["G"] if not case.is_sharp]
    assert len({kernel.tobytes() for kernel in own}) == len(own)
    for kernel in own:
        padded = np.pad(kernel, (27 - len(kernel)) // 2)
        similarity = np.tensordot(pool, padded / np.linalg.norm(padded), 2)
        assert similarity.max() < 1 - 1e-6


# ------------------------------------------------------------------ figures
def towards_sharp(case: FaceCase) -> faces.Outcome:
    """Half of the error, so 6.02 dB; the true kernel."""
    return (case.blurred + case.sharp) / 2, case.kernel


def worse_for_long_kernels(case: FaceCase) -> faces.Outcome:
    factor = 2 if len(case.kernel) > 13 else 0.5
    return case.sharp + factor * (case.blurred - case.sharp), None


TOYS: dict[str, faces.Method] = {"blurred": faces.blurred, "half": towards_sharp, "mixed": worse_for_long_kernels}
SIX = 20 * np.log10(2)


def test_gains_of_toy_methods(sets: Sets) -> None:
    rows = faces.evaluate(sets["A"], TOYS)
    lines = {(line["group"], line["method"]): line for line in face_report.totals("A", rows)}
    assert len(lines) == (6 + 2) * 3  # the sides, two means over sides
    for (group, method), line in lines.items():
        count = {"5 to 21 px": 15, "9 to 21 px": 12}.get(group, 3)
        assert line["n"] == count
        if method == "blurred":
            assert "gain" not in line
            assert "cpu_milliseconds" not in line
        if method == "half":
            assert line["gain"] == pytest.approx(SIX)
            assert line["gain_95"] == pytest.approx([SIX, SIX])
            assert (line["worse"], line["similarity"]) == (0, pytest.approx(1))
            assert line["aligned_gain"] > 4
            assert line["to_input"] == pytest.approx(line["psnr"])  # half way between both
    assert lines["17 px", "mixed"]["gain"] == pytest.approx(-SIX)
    mean = lines["5 to 21 px", "mixed"]
    assert (mean["gain"], mean["gain_min"], mean["worse"]) == pytest.approx((SIX / 5, -SIX, 2 / 5))
    assert "similarity" not in mean


def test_figures_of_sharp_pictures(sets: Sets) -> None:
    rows = faces.evaluate(sets["D"], TOYS)
    lines = {(line["group"], line["method"]): line for line in face_report.totals("D", rows)}
    assert lines["0 % noise", "half"]["to_input"] == faces.MAX_PSNR
    assert "gain" not in lines["0 % noise", "half"]  # from infinity
    assert lines["1 % noise", "half"]["gain"] == pytest.approx(SIX)
    assert "similarity" not in lines["1 % noise", "half"]


def test_a_shift_costs_no_aligned_gain(sets: Sets) -> None:
    case = sets["A"][0]
    figures = [faces.figures(case, (np.roll(case.sharp, shift, axis=0), None)) for shift in (0, 2)]
    assert figures[1]["psnr"] < 30
    assert figures[0]["aligned"] == figures[1]["aligned"] == faces.MAX_PSNR


def test_restored_faces_are_recognized_by_their_own(data: Path, sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A yardstick that knows the pixels; groups of faces come out as one by one."""

    class Pixels:
        files = sorted((data / "faces").glob("*.jpg"))

        def measure(self, images: np.ndarray, indices: list[int]) -> Any:
            gallery = np.stack([face_cases.color_picture(file) for file in self.files]).transpose(0, 3, 1, 2)
            distances = np.sqrt(((images[:, None] - gallery) ** 2).mean(axis=(2, 3, 4)))
            own = distances[range(len(indices)), indices]
            return types.SimpleNamespace(recognized=distances.argmin(axis=1) == indices, distance=own, features=own)

    monkeypatch.setattr(faces, "RECOGNITION_FACES", 4)
    rows = faces.evaluate(sets["G"], TOYS, identity=Pixels())
    assert all(row["recognized"] is True for row in rows if row["method"] == "half")
    for row, half in zip(rows[::3], rows[1::3], strict=True):
        assert half["distance"] == pytest.approx(row["distance"] / 2, rel=1e-4)
    (line,) = (x for x in face_report.totals("G", rows) if (x["group"], x["method"]) == ("9 px", "half"))
    assert line["recognized"] == 1


def test_papers_have_their_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    for name in [*SETS, "H"]:
        for row in face_report.papers_of(name):
            assert row["group"] not in ("", "all")
            face_report.print_table(name, [row])
    lines = capsys.readouterr().out.splitlines()
    assert "| faces 112 x 96, 15 px, 45 degrees | [WangL2017] table 4 | 27.38 | +2.43 |" in lines
    assert len({line.count("|") for line in lines[-3:]}) == 1


def test_a_cache_answers_as_the_method(sets: Sets, tmp_path: Path) -> None:
    calls = []

    def method(case: FaceCase) -> faces.Outcome:
        calls.append(case.name)
        return towards_sharp(case)[0], None if case.is_sharp else case.kernel

    cached = faces.Cached(method, tmp_path / "kept")
    for case in (sets["A"][0], sets["D"][0]):
        (image, kernel), (again, kernel_again) = cached(case), cached(case)
        np.testing.assert_allclose(image, towards_sharp(case)[0], atol=1e-6)
        np.testing.assert_array_equal(image, again)
        assert (kernel is None) == (kernel_again is None) == case.is_sharp
    assert calls == [sets["A"][0].name, sets["D"][0].name]


def test_a_sheet_has_all_faces_and_is_small(sets: Sets) -> None:
    from PIL import Image

    six = [(case, *towards_sharp(case)) for case in sets["A"][:6]]
    data = face_report.sheet(six)
    assert len(data) < face_report.SHEET_BYTES
    with Image.open(io.BytesIO(data)) as page:
        gap = face_report.GAP
        assert page.size == (3 * (3 * 2 * 85 + gap) + gap, 2 * (2 * 105 + gap) + gap)


# ------------------------------------------------------------------ command
def test_the_command(data: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    call = ["networks", "faces", "--data", str(data), "--jobs", "0", "--limit", "1"]
    for _ in range(2):
        __main__.main([*call, "--sets", "A", "C", "--methods", "ceiling", "blurred", "--cache", str(tmp_path / "c")])
    lines = [json.loads(line) for line in (results / "networks.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * (2 * (len(SIDES) + 2) + 2)
    kept = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert [line.get("gain") for line in kept[0]] == pytest.approx([line.get("gain") for line in kept[1]])
    assert {"kind", "set", "group", "method", "commit", "versions"} <= lines[0].keys()
    (means,) = (x for x in kept[0] if (x["group"], x["method"]) == ("5 to 21 px", "ceiling"))
    assert means["gain"] > 0
    assert "[WangL2017] table 4" in capsys.readouterr().out
    for options, message in (
        (["--methods", "magic"], "no method 'magic'"),
        (["--choose", "--sets", "B"], "set B has no pictures to choose by"),
        (["--sets", "G", "--methods", "blurred"], "--cache must name a folder"),
        (["--weights", "deepdeblur=missing"], "NAME=FILE"),
    ):
        with pytest.raises(SystemExit):
            __main__.main([*call, *options])
        assert message in capsys.readouterr().err
