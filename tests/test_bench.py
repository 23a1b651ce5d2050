"""The benches: cases follow their recipes, figures are what they are called, and every command runs to its end."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpudeblur as gd
from gpudeblur.synthesis import blur, trajectory_kernel

pytest.importorskip("pytest_benchmark")
from bench import __main__, cases, deconvolution, evaluate, figures, fit, gpu_report, photographs, quality

QUICK: dict[str, Any] = {"iterations": 1, "kernel_iterations": 2, "beta_max": 0.1, "finest_beta_max": 0.1,
                         "finest_iterations": 1, "starts": ["wide"]}  # fmt: skip
FEW_ROUNDS = ("--benchmark-max-time=0.02", "--benchmark-min-rounds=2")
Sets = dict[str, list[cases.Case]]


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the benches write their records."""
    monkeypatch.setenv("GPUDEBLUR_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return gpu_report.rows(folder / f"{name}.jsonl")


def photograph(shape: tuple[int, ...], seed: int, clipped: bool = False) -> np.ndarray:
    """uint8: dark texture and a lamp, which is distinct from the rest unless it is `clipped`."""
    picture = 0.4 * np.random.default_rng(seed).random(shape)
    lamp = picture[: shape[0] // 4, : shape[1] // 4]
    lamp[:] = 1 if clipped else np.linspace(0.6, 1, lamp.shape[1]).reshape(-1, *[1] * (len(shape) - 2))
    return np.round(255 * picture).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a few small pictures of each kind, under the names of the real ones."""
    import imageio.v3 as iio
    from scipy.io import savemat

    folder = tmp_path_factory.mktemp("data")
    for name in ("levin", "faces_hq", "faces", "natural/val", "real"):
        (folder / name).mkdir(parents=True)
    for image in (1, 2):
        x = photograph((60, 64), image) / 255
        for number in range(1, 9):
            f = trajectory_kernel(2 * number + 1, rng=number)
            y = blur(x, f[::-1, ::-1].copy(), mode="same")
            savemat(folder / "levin" / f"im{image:02d}_ker{number:02d}.mat", {"x": x, "y": y, "f": f})
    for name, stems, shape in (
        ("faces", ("007500", "007501", "007999", "008000"), (109, 89, 3)),
        ("natural/val", ("101", "102", "103", "104"), (90, 100, 3)),
        ("faces_hq", ("000001", "000002"), (64, 64, 3)),
        ("real", ("shaken",), (70, 90, 3)),
    ):
        for i, stem in enumerate(stems):
            iio.imwrite(folder / name / f"{stem}.jpg", photograph(shape, i, clipped=stem == "102"))
    return folder


@pytest.fixture(scope="module")
def sets(data: Path) -> Sets:
    return {name: list(of(data)) for name, of in quality.SETS.items()}


# ------------------------------------------------------------------ cases
def test_the_sets_of_quality(sets: Sets) -> None:
    """Counts, names, sizes, grey levels; the rules that hold for each case of each set."""
    counts = {"levin": 16, "portraits": 16, "small-faces": 24, "natural-0": 32, "natural-1": 32, "natural-2": 32}
    # One photograph is clipped, and makes no night.
    assert {name: len(members) for name, members in sets.items()} == counts | {"text": 80, "low-light": 12}
    for name, members in sets.items():
        assert len({case.name for case in members}) == len(members), name
        for case in members:
            assert case.picture, case.name
            assert case.blurred.shape == case.sharp.shape, case.name
            assert case.kernel.sum() == pytest.approx(1), case.name
            if name != "levin":  # floats as they were measured
                np.testing.assert_array_equal(case.blurred * 255, np.round(case.blurred * 255), err_msg=case.name)
                assert 0 <= case.blurred.min() <= case.blurred.max() <= 1
    assert all(case.blurred.shape == (320, 320) for case in sets["portraits"])
    assert sorted({case.kernel.shape[0] for case in sets["portraits"]}) == list(range(21, 42, 2))
    assert {case.picture for case in sets["small-faces"]} == {"007501", "007999", "008000"}
    assert sets["small-faces"][0].blurred.shape == (107, 87)
    sizes = [case.kernel.shape[0] for case in sets["natural-0"][:8]]
    assert sizes == [7, 3, 9, 17, 21, 31, 41, 51]  # 3, 1, 4 and 8 of this folder's kernels, and the trajectories


def test_no_two_pictures_share_a_trajectory(sets: Sets) -> None:
    kernels: dict[str, set[bytes]] = {}
    for case in (case for members in sets.values() for case in members if "trajectory" in case.name):
        kernels.setdefault(case.name, set()).add(case.kernel.tobytes())
    assert {len(same) for same in kernels.values()} == {1}  # the noises of a photograph do share it
    assert len(set.union(*kernels.values())) == len(kernels)


def test_a_case_is_the_same_however_many_are_taken(data: Path, sets: Sets) -> None:
    few = {
        "natural-1": list(cases.mixed_cases(data, 0.01, count=1)),
        "small-faces": list(cases.small_face_cases(data, count=2)),
        "low-light": list(cases.low_light_cases(data, count=1)),
    }
    assert [len(members) for members in few.values()] == [8, 16, 4]
    for name, members in few.items():
        full = {case.name: dataclasses.asdict(case) for case in sets[name]}
        for case in members:
            np.testing.assert_equal(dataclasses.asdict(case), full[case.name])


def test_the_noise_is_what_it_is_said_to_be(sets: Sets) -> None:
    for level, name in ((0.0, "natural-0"), (0.01, "natural-1"), (0.02, "natural-2")):
        for case, clean in zip(sets[name], sets["natural-0"], strict=True):
            inside = (clean.blurred > 0.1) & (clean.blurred < 0.9)  # where nothing is clipped
            sigma = float((case.blurred - clean.blurred)[inside].std())
            assert sigma == pytest.approx(level, rel=0.2, abs=1e-6), case.name
            assert case.noise_sigma == level
    noisy = [case for case in sets["text"] if case.noise_sigma]
    assert {case.noise_sigma for case in noisy} == {0.01}
    assert len(noisy) == len(sets["text"]) / 2
    for dark in (True, False):  # drawn pages: each kernel with noise on dark letters, and on light ones
        assert len({c.name.split("_")[1] for c in noisy if "_" in c.name and (c.sharp.mean() > 0.5) == dark}) == 8


def test_text_pages_are_full_of_text() -> None:
    pages = cases.text_pages()
    assert len(pages) == 10
    for name, page in pages.items():
        assert 0 <= page.min() < page.max() <= 1, name
        blocks = page[: page.shape[0] // 4 * 4, : page.shape[1] // 4 * 4]
        blocks = blocks.reshape(4, page.shape[0] // 4, 4, -1).swapaxes(1, 2)
        assert (np.ptp(blocks, axis=(2, 3)) > 0.15).sum() >= 14, name  # letters in each part, but for a corner
    drawn = [page for page in pages.values() if page.shape == (400, 480)]
    assert sum(np.median(page) > 0.5 for page in drawn) == len(drawn) / 2 == 4  # dark on light, light on dark


def test_lamps_at_night_are_clipped(sets: Sets) -> None:
    scene = cases.night_scene(photograph((90, 100), 0) / 255)
    assert scene is not None
    assert np.median(scene) < 0.3 < 1.1 < scene.max()
    assert (scene > 1).mean() == pytest.approx(cases.LIGHTS, abs=0.005)
    assert cases.night_scene(photograph((90, 100), 0, clipped=True) / 255) is None
    assert cases.night_scene(np.linspace(0.5, 1, 9000).reshape(90, 100)) is None  # bright all over
    for case in sets["low-light"]:
        assert case.sharp.max() == 1
        assert (case.sharp == 1).sum() > 50, case.name
    assert (sets["low-light"][0].blurred == 1).any()  # clipped after the blur


@pytest.mark.parametrize("every", [1, 4, 20])
def test_thinned_sets_keep_all_kernels(every: int) -> None:
    empty = np.zeros((1, 1))
    members = [cases.Case(f"{p}_{k}", empty, empty, empty, 0.0, str(p)) for p in range(50) for k in range(8)]
    taken = [case.name.split("_") for case in cases.thinned(members, every)]
    assert taken[0] == ["0", "0"]
    assert len(taken) == pytest.approx(400 / every, abs=2.5)
    for kernel in range(8):
        assert sum(int(k) == kernel for _, k in taken) == pytest.approx(50 / every, abs=1.5)


# ------------------------------------------------------------------ figures
def test_items_are_made_as_they_are_needed() -> None:
    requested = []

    def items() -> Iterator[int]:
        for i in range(20):
            requested.append(i)
            yield -i

    outcomes = evaluate.parallel(abs, items(), 1)
    assert next(outcomes) == 0
    assert len(requested) < 6
    assert list(outcomes) == list(range(1, 20))


@pytest.mark.parametrize(
    ("score", "success", "area"),
    [
        ([0.9, 0.8, 0.1], [1, 1, 0], 1),
        ([0.1, 0.8], [1, 0], 0),
        ([0.5, 0.5, 0.5], [1, 0, 1], 0.5),
        ([0.9, 0.3, 0.4, 0.1], [1, 1, 0, 0], 0.75),  # 3 of 4 pairs in order
        ([0.9, 0.8], [1, 1], math.nan),
    ],
)
def test_area_under_the_roc_curve(score: list[float], success: list[int], area: float) -> None:
    assert evaluate.roc_area(np.array(score), np.array(success, bool)) == pytest.approx(area, nan_ok=True)


def test_intervals_draw_whole_pictures() -> None:
    """Ten equal values of a picture say no more than a single one."""
    interval = evaluate.mean_interval
    values, pictures = [0.0, 1.0, 0.0, 1.0], list("abcd")
    assert interval(values, pictures) == (0.5, 0, 1)
    assert interval([v for v in values for _ in range(10)], [p for p in pictures for _ in range(10)]) == (0.5, 0, 1)
    _, low, high = interval(values * 10, [str(i) for i in range(40)])
    assert 0.3 < low < 0.4 < 0.6 < high < 0.7


def quality_row(er: float, picture: str, confidence: float = 0.5, **changes: Any) -> dict[str, Any]:
    row = {"name": picture, "er": er, "picture": picture, "confidence": confidence, "psnr": 30.0, "ssim": 0.9,
           "similarity": 0.8, "kernel_error": 0.1, "gain": 2.0, "result_gain": 1.0, "psnr_blurred": 28.0,
           "psnr_true": 31.0, "seconds": 0.5}  # fmt: skip
    return row | changes


def test_totals_of_quality() -> None:
    rows = [quality_row(1.0, "a", 0.9), quality_row(1.5, "a", 0.8, psnr_true=31.5)]
    rows += [quality_row(3.0, "b", 0.85, result_gain=-2.0), quality_row(400.0, "c", 0.1, seconds=0.7)]
    total = quality.totals(rows)
    assert (total["n"], total["pictures"]) == (4, 3)
    assert total["er_mean"] == pytest.approx(101.375)
    assert total["er_mean_capped"] == pytest.approx(15.5 / 4)  # 400 counts as 10
    assert total["er_mean_capped_95"] == pytest.approx([1.25, 10])
    assert (total["er_median"], total["er_max"], total["seconds_median"]) == (2.25, 400, 0.5)
    assert [total[f"success_{bar}"] for bar in ("1.5", "2", "3")] == [0.5, 0.5, 0.75]
    assert total["success_2_95"] == [0, 1]
    assert total["blurred_success_2"] == 0.75  # 3 dB under the true kernel's: a ratio of 1.995
    assert (total["result_gain_mean"], total["result_gain_min"], total["roc_area"]) == (0.25, -2, 0.75)


def test_variants_are_compared_in_pairs() -> None:
    first = [quality_row(2.0, "a"), quality_row(50.0, "b", psnr=20.0)]
    better = [quality_row(1.0, "a", psnr=31.0), quality_row(20.0, "b", psnr=21.0)]
    differences = quality.over_first(better, first)
    assert (differences["psnr_over_first"], differences["psnr_over_first_95"]) == (1, [1, 1])
    assert (differences["er_capped_over_first"], differences["er_capped_over_first_95"]) == (-0.5, [-1, 0])
    with pytest.raises(ValueError, match="zip"):
        quality.over_first(better[:1], first)


def test_the_result_gain_is_of_what_deblur_returned(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `deblur` that gives back the blurred picture gains nothing, whatever the kernel that it reports."""
    case = sets["levin"][0]
    info = {"confidence": 0.25, "seconds_kernel": 1.5, "energy": -3.0}
    outcome = types.SimpleNamespace(image=case.blurred, kernel=case.kernel, info=info)
    monkeypatch.setattr(gd, "deblur", lambda *_, **__: outcome)
    row, _ = quality.Trial()(case)
    assert (row["result_gain"], row["er"]) == pytest.approx((0, 1))
    assert row["gain"] > 0.5
    assert (row["confidence"], row["seconds"], row["picture"]) == (0.25, 1.5, "im01")


def test_totals_of_photographs() -> None:
    """Right and whole are about those with a reference kernel; the seconds are of all."""
    names = ("similarity", "confidence", "strength", "seconds")
    values = [(0.9, 0.8, 1.0, 1.0), (0.8, 0.5, 0.79, 2.0), (0.7, 0.6, 1.0, 3.0)]
    rows = [dict(zip(names, row, strict=True)) for row in values]
    total = photographs.photograph_totals([*rows, {"confidence": 0.9, "strength": 1.0, "seconds": 4.0}])
    assert (total["n"], total["compared"], total["right"], total["right_and_whole"]) == (4, 3, 2, 1)
    assert (total["seconds"], total["similarity_mean"], total["roc_area"]) == (10, pytest.approx(0.8), 0.5)
    assert photographs.photograph_totals(rows[:1]).get("roc_area") is None


def test_a_phone_without_blur_or_noise_gives_the_scene_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the colors between the sensor's pixels, and JPEG: a ramp, which bilinear interpolation keeps."""
    import imageio.v3 as iio

    monkeypatch.setattr(photographs, "READ_NOISE", 0)
    monkeypatch.setattr(photographs, "SHOT_NOISE", 0)
    light = np.linspace(0.1, 0.9, 64)[:, None, None] * np.array([1, 0.7, 0.4]) * np.ones((64, 48, 3))
    sharp = np.round(255 * photographs.srgb(light)).astype(np.uint8)
    np.testing.assert_allclose(photographs.srgb(photographs.linear_light(sharp / 255)), sharp / 255, atol=1e-6)
    picture = iio.imread(photographs.phone_picture(sharp, np.ones((1, 1)), np.random.default_rng(0)))
    inner = np.abs(picture.astype(int) - sharp)[2:-2, 2:-2]
    assert inner.max() <= 4


def test_of_several_batches_the_best_counts() -> None:
    rows = [{"bar": "rate", "limit": ">= 4", "measured": m} for m in (1, 5, 3)]
    rows += [{"bar": "time", "limit": "<= 4", "measured": m} for m in (1, 5, 3)]
    assert [row["measured"] for row in gpu_report.best_bars(rows)] == [5, 1]


# ------------------------------------------------------------------ commands
YARDSTICK = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
for name in ("data", "kernels", "cache", "only", "json"):
    parser.add_argument("--" + name)
args = parser.parse_args()
rows = {path.stem: {"er": 1.5, "psnr": 30, "ssim": 0.9, "ks": 0.8} for path in pathlib.Path(args.kernels).glob("*.npy")}
pathlib.Path(args.json).write_text(json.dumps({"rows": {k: v for k, v in rows.items() if args.only in k}}))
"""


def test_quality(data: Path, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two variants of a thinned set: what is printed, recorded and kept."""
    (tmp_path / "yardstick.py").write_text(YARDSTICK)
    variants = json.dumps([{"name": "plain", "options": {"refine": False}}, {"name": "refined"}])
    __main__.main([
        "quality", "--data", str(data), "--sets", "levin", "--every", "5", "--jobs", "0", "--options",
        json.dumps(QUICK), "--variants", variants, "--out", str(tmp_path / "out"),
        "--kernel-size", "9", "--yardstick", str(tmp_path / "yardstick.py"),
    ])  # fmt: skip
    plain, refined = records(results, "quality")
    assert (plain["variant"], refined["variant"]) == ("plain", "refined")
    assert plain["options"] == {**QUICK, "refine": False}
    assert (plain["set"], plain["every"], plain["kernel_size"]) == ("levin", 5, 9)
    assert "psnr_over_first" in refined["totals"]
    rows = json.loads((tmp_path / "out" / "plain" / "levin.json").read_text())["rows"]
    assert plain["totals"]["n"] == len(rows) == len(plain["er_and_confidence"])
    for row in rows:
        assert plain["er_and_confidence"][row["name"]] == [round(row["er"], 4), round(row["confidence"], 3)]
        assert np.load(tmp_path / "out" / "plain" / "levin" / f"{row['name']}.npy").shape == (9, 9)
    judged = plain["totals"]["yardstick"]
    assert (judged["er_mean"], judged["within_1.5"]) == (1.5, len(rows))
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| refined |"))
    assert row.count("|") == len(quality.COLUMNS) + 2
    with pytest.raises(SystemExit):
        __main__.main(["quality", "--data", str(tmp_path), "--sets", "levin"])
    assert "no cases of 'levin'" in capsys.readouterr().err
    assert quality.chosen_sets("text,natural") == ["natural-0", "natural-1", "natural-2", "text"]
    assert quality.chosen_sets("phone,photographs,text") == ["text", "photographs", "phone"]
    with pytest.raises(quality.argparse.ArgumentTypeError, match="no set 'faces'"):
        quality.chosen_sets("faces")


def test_photographs(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two small ones, one with a reference kernel: rows, kernels, sheet and record; the size is not told."""
    import imageio.v3 as iio

    for name in ("real", "text/reference_kernels"):
        (tmp_path / name).mkdir(parents=True)
    iio.imwrite(tmp_path / "real" / "shaken.png", photograph((70, 90, 3), 1))
    iio.imwrite(tmp_path / "text" / "page.png", photograph((60, 80), 2))
    np.save(tmp_path / "text" / "reference_kernels" / "page.npy", trajectory_kernel(9, rng=1))
    variants = json.dumps([{"name": "linear", "deblur": {"gamma": 2.2}}])
    __main__.main([
        "quality", "--data", str(tmp_path), "--sets", "photographs", "--jobs", "0", "--options", json.dumps(QUICK),
        "--variants", variants, "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    (line,) = records(results, "quality")
    assert (line["set"], line["deblur"], line["options"]) == ("photographs", {"gamma": 2.2}, QUICK)
    shaken, page = line["rows"]
    assert ("similarity" in shaken, line["totals"]["compared"]) == (False, 1)
    folder = tmp_path / "out" / "linear" / "photographs"
    assert sorted(file.name for file in folder.iterdir()) == [
        "page.npy", "page.png", "shaken.npy", "shaken.png", "sheet_1.png",
    ]  # fmt: skip
    kernel = np.load(folder / "page.npy")
    assert page["similarity"] == gd.metrics.kernel_similarity(kernel, trajectory_kernel(9, rng=1))
    assert page["size"] == max(kernel.shape)
    assert 0 < page["seconds_kernel"] < page["seconds"]
    assert iio.imread(folder / "page.png").shape == (60, 80, 3)
    assert "| page |" in capsys.readouterr().out


def test_phone(data: Path, tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one, in this process."""
    import imageio.v3 as iio

    (tmp_path / "natural" / "train").mkdir(parents=True)
    for number, shape in enumerate([(40, 50, 3), (50, 40, 3), (42, 48, 3)]):  # an upright one is left out
        iio.imwrite(tmp_path / "natural" / "train" / f"{number}.jpg", photograph(shape, number))
    tiles = photographs.collage(list(photographs.paths("phone", tmp_path)), (90, 100))
    assert tiles.shape == (90, 100, 3)
    inner = tiles[: 40 - photographs.OVERLAP, : 48 - photographs.OVERLAP]
    np.testing.assert_array_equal(inner, iio.imread(tmp_path / "natural" / "train" / "0.jpg")[:24, :32])
    monkeypatch.setattr(photographs, "PHONES", {"tiny": ((96, 128), 7, 2)})
    __main__.main([
        "quality", "--data", str(tmp_path), "--sets", "phone", "--jobs", "0", "--options", json.dumps(QUICK),
        "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    ((row,),) = (line["rows"] for line in records(results, "quality"))
    assert (row["name"], row["true_size"], row["megapixels"]) == ("phone_tiny", 7, 96 * 128 / 1e6)
    assert 10 < row["blurred_psnr"] < 60
    assert 10 < row["psnr"] < 60
    assert row["peak_memory"] > 0.05 or math.isnan(row["peak_memory"])  # GiB; Linux alone tells it
    assert iio.imread(tmp_path / "out" / "default" / "phone" / "phone_tiny.jpg").shape == (96, 128, 3)


@pytest.mark.slow
def test_deconvolution(data: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wiener, peers = {"wiener": deconvolution.LEVIN["wiener"]}, {"wiener": ("balance", (0.1, 1e-3))}
    for name, value in (("LEVIN", wiener), ("PLAIN", wiener), ("FIXED", {}), ("PEERS", peers)):
        monkeypatch.setattr(deconvolution, name, value)
    parts = ["levin", "noise", "edges", "saturated", "peers"]
    __main__.main(["deconvolution", "--data", str(data), "--parts", ",".join(parts)])
    rows = {line["part"]: line["rows"] for line in records(results, "deconvolution")}
    assert list(rows) == parts
    assert [row["boundary"] for row in rows["edges"][:4]] == ["unknown", "reflect", "edge", "wrap"]
    assert [row["saturation"] for row in rows["saturated"]] == 3 * ["None", "auto"]
    assert [row["method"] for row in rows["noise"]] == 3 * ["wiener"]
    assert [row["gain"] for row in rows["noise"]] == sorted((row["gain"] for row in rows["noise"]), reverse=True)
    best = {row["case"]: row["psnr"] for row in rows["peers"] if row["method"] == "skimage wiener"}
    monkeypatch.setattr(deconvolution, "PEERS", {"wiener": ("balance", (0.1,))})
    alone = {row["case"]: row["psnr"] for row in deconvolution.peers() if row["method"] == "skimage wiener"}
    assert len(best) == 6
    assert all(best[case] >= alone[case] for case in best)


@pytest.mark.slow
def test_deconvolution_with_learned_priors(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deconvolution, "COUNTS", dict.fromkeys(deconvolution.COUNTS, 1))
    monkeypatch.setattr(deconvolution, "LEARNED", ("tv", "wiener"))
    monkeypatch.setattr(deconvolution, "FINALS", ("tv", "sparse"))
    monkeypatch.setattr(deconvolution, "estimate_kernel", lambda image, size: np.full((size, size), size**-2))
    unlike = [*deconvolution.unlike(data, None)]
    assert [row["set"] for row in unlike[::2]] == ["text", "night", "patterns", "small faces, 1 %"]
    assert all(row["worst"] == 0 for row in unlike[::2])
    misjudged = [*deconvolution.misjudged(data, None)]
    assert [row["noise"] for row in misjudged] == [0.01, 0.01, 0.05, 0.05]
    assert misjudged[2]["1"] > misjudged[2]["0.5"]  # at 5 % noise half of it costs more than a decibel
    estimated = [*deconvolution.estimated(data, None)]
    assert [row["set"] for row in estimated[::2]] == ["photographs", "portraits", "levin"]
    assert all(row["worst"] == 0 for row in estimated[1::2])


@pytest.mark.slow
def test_fit(data: Path, results: Path, sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strength of pictures that gain is all, of those that lose none."""
    sharp = dataclasses.replace(sets["levin"][0], kernel=np.zeros((5, 5)))
    few = {"blurred": sets["levin"][:2], "sharp": [sharp], fit.NOT_FITTED: sets["levin"][2:3]}
    monkeypatch.setattr(fit, "common_sets", lambda *_: few)
    monkeypatch.setattr(fit, "strength_sets", lambda _: few)
    monkeypatch.setattr(fit, "TURNS", 1)
    for constants, count in (("confidence", 5), ("strength", 4)):
        __main__.main(["fit", constants, "--data", str(data), "--jobs", "0"])
        (line,) = records(results, constants)
        assert len(line["fitted"]) == count
        assert few.keys() <= line.keys()

    def samples(gain: float, signal: float) -> list[fit.Sample]:
        return [fit.Sample([1, signal, signal, signal], 1, 1, list(gain * fit.SHARES))]

    groups = {"good": samples(2, 2), "bad": samples(-2, -2)}
    shares = [fit.shares(group, fit.strength_constants(groups))[0] for group in groups.values()]
    assert shares[0] > 0.9
    assert shares[1] < 0.1
    assert fit.worth(np.array([1, -0.4, -1])).tolist() == pytest.approx([1, -0.8, -4])


def test_sheets(data: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    results.mkdir()
    (results / "sheet_real_2.jpg").write_bytes(b"of an older run")
    options = ["--data", str(data), "--folders", "real", "--kernel-size", "9"]
    __main__.main(["figures", "sheets", *options])
    assert [path.name for path in results.iterdir()] == ["sheet_real.jpg"]
    with Image.open(results / "sheet_real.jpg") as page:
        drawn = np.asarray(page)
    assert drawn.shape == (figures.TITLE + figures.CROP + 2 * figures.GAP, 3 * figures.CROP + 4 * figures.GAP, 3)
    picture = np.zeros((50, 61, 3))
    picture[31:40, 7:15] = np.random.default_rng(0).random((9, 8, 1))
    rows, columns = figures.busiest(picture, 20)
    assert rows.start <= 31 < 40 <= rows.stop
    assert columns.start <= 7 < 15 <= columns.stop
    monkeypatch.setattr(figures, "METHODS", ("tv", "wiener"))
    __main__.main(["figures", "methods", *options])
    with Image.open(results / "methods.jpg") as page:
        assert page.size == (3 * figures.CROP + 4 * figures.GAP, figures.TITLE + figures.CROP + 2 * figures.GAP)


@pytest.mark.slow
def test_networks(data: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that is not trained."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from bench import networks
    from gpudeblur.networks.classifier.network import Classifier
    from gpudeblur.networks.classifier.training import write_classifier

    write_classifier(tmp_path / "w.safetensors", Classifier((2, 2, 2, 2, 2)).initialize(0))
    weights = ["--weights-file", str(tmp_path / "w.safetensors")]
    __main__.main(["networks", "accuracy", "--pictures", str(data / "natural"), *weights])
    (line,) = records(results, "networks")
    assert {row["pictures"] for row in line["rows"]} == {"val"}
    for row in line["rows"]:
        assert row["accuracy"] == pytest.approx((row["clear_right"] + row["blurred_right"]) / 2)
    monkeypatch.setattr(networks, "SHAPES", ((48, 48),))
    runs: list[Any] = []
    monkeypatch.setattr(networks.gd, "estimate_kernel", lambda *_, options, **__: runs.append(options.prior is None))
    __main__.main(["networks", "runtime", "--repeats", "1", *weights])
    assert len(records(results, "networks")[1]["rows"]) == 4
    assert runs == [True, True, False, False] * 2  # each method twice: to compile, and to time
    __main__.main(["networks", "gate", "--data", str(data), "--pictures-per-set", "1"])
    rows = records(results, "networks")[2]["rows"]
    assert [row["set"] for row in rows if row["group"].startswith("textures")] == ["textures"] * 2
    assert all(0 <= row["faces"] <= 1 and row["n"] for row in rows)


@pytest.mark.slow
def test_speed(results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The figures of a row, and what a run that is over its time leaves out."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # under which pytest-benchmark measures nothing
    some = "(latent_step and 255) or (wiener and drop) or (two and 64)"
    with pytest.raises(SystemExit) as end:
        __main__.main(["speed", "--smallest", "-k", some, *FEW_ROUNDS, f"--benchmark-json={tmp_path / 'speed.json'}"])
    assert end.value.code == 0
    rows = json.loads((tmp_path / "speed.json").read_text())["benchmarks"]
    lines = {line["case"]: line for line in records(results, "speed")}
    for row in rows:
        assert lines[row["name"]]["ms"] == pytest.approx(1e3 * row["stats"]["median"])
    groups = [row["group"] for row in rows]
    assert groups.count("latent step, 1 x 255 x 255") == 2  # rivals in one group
    assert groups.count("wiener, 64 x 64") == 2
    batch = next(row for row in rows if "deblur_batch" in row["name"])
    assert batch["extra_info"]["pictures_per_second"] == pytest.approx(4 / batch["stats"]["median"])
    monkeypatch.setenv("GPUDEBLUR_RESULTS", str(tmp_path / "late"))
    with pytest.raises(SystemExit):
        __main__.main(["speed", "--seconds", "0", "--smallest", "-k", "wiener"])
    assert not (tmp_path / "late").exists()


@pytest.mark.slow
def test_speed_on_a_device(request: Any, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind a row, on the stand-in for CuPy; what is recorded of launches is what the bytes are known to be."""
    pytest.importorskip("cupy", reason="gpudeblur.numerics.cuda.source needs it; no GPU is needed")
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    from cuda_on_cpu import device

    from bench import roofline
    from bench.cases import blurred_cameras
    from bench.speed.test_cuda_kernels import KERNELS
    from gpudeblur.blind.latent import latent_step

    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    kernels = "(test_cuda_kernel and 255 and (dt_l0 or data_terms or cells_ or (pose_ and not CuPy)))"
    rows = f"(latent_step and 255-1) or {kernels} or (full_batches and 255 and start-1)"
    with device.installed(request.getfixturevalue("cpu_kernel")) as cupy:
        with pytest.raises(SystemExit) as end:
            __main__.main(["speed", "--device", "cuda", "--smallest", "-k", rows, *FEW_ROUNDS])
        assert end.value.code == 0
        from gpudeblur.numerics import cuda

        assert set(KERNELS) == {path.stem for path in cuda.SOURCES.glob("*.cu")}
        u, k = cupy.asarray(blurred_cameras(2, (48, 200), 9)), cupy.full((2, 9, 9), 1 / 81, cupy.float32)
        before = cuda.launches.copy()
        with roofline.recorded() as launches:
            latent_step(u, k, gradient_weight=0.1, beta_max=0.3)
        counted = Counter(launch.name for launch in launches)
        assert counted == cuda.launches - before
        assert counted["cufft_c2r"] == counted["spectral_solve"] == 1  # one pass
    lines = {line["case"]: line for line in records(results, "speed")}
    assert sum("test_cuda_kernel" in case for case in lines) == 10
    batch = next(line for case, line in lines.items() if "full_batches" in case)
    assert batch["launches"] > batch["transforms"] > 0
    assert batch["floor_ms"] > 0
    passes = {launch.name: launch.bytes for launch in launches}
    of_a_pass = sum(passes[name] for name in ("dt_l0", "cufft_r2c", "spectral_solve", "cufft_c2r"))
    assert of_a_pass / (2 * 48 * 200) == pytest.approx(54, rel=0.01)  # half a spectrum has a column more
    assert roofline.floor_seconds(launches, 1e9, math.inf) == pytest.approx(sum(row.bytes for row in launches) / 1e9)
    assert roofline.floor_seconds(launches, math.inf, 1e9) == 0  # no arithmetic but the solvers'
