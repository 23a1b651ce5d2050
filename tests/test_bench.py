"""The benches of speed: what they count is what runs, and all that they do on a GPU is tried on one made of NumPy.

The bench of quality: its cases follow their recipes, and its figures are what they are called.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import shutil
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy", reason="gpudeblur.numerics.cuda.source needs it; no GPU is needed")
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

from cuda_on_cpu import device

import gpudeblur as gd
from gpudeblur.blind.options import STARTS
from gpudeblur.numerics import cuda
from gpudeblur.synthesis import blur, trajectory_kernel

BENCH = Path(__file__).parent.parent / "bench"
# Two scales, with and without passes that have the smooth map.
QUICK = gd.TwoStepOptions(
    iterations=2, kernel_iterations=3, beta_max=0.2, finest_beta_max=0.2, finest_iterations=2, starts=("wide",)
)
# By the place of an argument: what is read and written, and tables that all pictures share.
IN_PLACE = {"spectral_solve": (1,), "data_terms": (0,), "normal_spectra": (0, 1), "dt_smooth": (4,)}
TABLES = {"spectral_solve": (5, 6), "resample": (1, 2)}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The modules of bench/ by name, writing their records to `tmp_path`."""
    monkeypatch.syspath_prepend(str(BENCH))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # put back at the end: `timing` sets them for good
    monkeypatch.setenv("GPUDEBLUR_RESULTS", str(tmp_path))
    return importlib.import_module


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def cupy(cpu_kernel: Any) -> Iterator[Any]:
    with device.installed(cpu_kernel) as cupy:
        yield cupy


@pytest.mark.parametrize(
    ("final", "size", "changes"),
    [
        (None, (9, 9), {}),
        ("hyper-laplacian", (9, 9), {}),
        (None, (13, 9), {"starts": tuple(STARTS)}),
        (None, (3, 3), {"starts": ("sparse", "wide"), "finest_candidates": 3, "refine": False}),  # one scale
        (
            None,
            (9, 9),
            {"iteration_threshold": (0.1, 0.1), "finest_candidates": 1, "starts": ("text", "compact", "relaxed")},
        ),
    ],
)
def test_the_plan_is_what_runs(
    bench: Any,
    cupy: Any,
    monkeypatch: pytest.MonkeyPatch,
    final: str | None,
    size: tuple[int, int],
    changes: dict[str, Any],
) -> None:
    """Launches and transforms one by one, and for each CUDA kernel the bytes of the arrays that are passed to it.

    cuFFT is passed a picture and a spectrum, and moves the spectrum three times: see the next test.
    """
    roofline = bench("roofline")
    from gpudeblur.numerics import cuda, cuda_graphs

    launch, passed = cuda._launch, Counter[str]()

    def watched(name: str, blocks: int, block: Any, *args: Any, **keywords: Any) -> None:
        tables = TABLES.get(name, ())
        arrays = [a for i, a in enumerate(args) if isinstance(a, cupy.ndarray) and i not in tables]
        again = [args[i] for i in IN_PLACE.get(name, ())]
        passed[name] += sum(a.nbytes for a in (*arrays, *again))
        launch(name, blocks, block, *args, **keywords)

    monkeypatch.setattr(cuda, "_launch", watched)
    monkeypatch.setattr(cuda_graphs, "GRAPH_PIXELS", 0)  # a graph would hide its launches
    stack = np.random.default_rng(0).random((2, 40, 33), np.float32)
    options = dataclasses.replace(QUICK, **changes)
    gd.deblur(cupy.asarray(stack), size, options=options, final=final)
    terms = list(roofline.plan((40, 33), size, options, 2))
    if final is not None:
        terms += roofline.plan_hyper_laplacian((40, 33), size, 2)
    planned, planned_bytes = Counter[str](), Counter[str]()
    for term in terms:
        planned[term.name] += term.count
        planned_bytes[term.name] += term.bytes
    assert dict(cuda.launches) == {name: n for name, n in planned.items() if n and name not in roofline.ARRAYS}
    # These move less than they are passed: a rectangle, some lags, a few weights.
    for name in ("selection_threshold", "central_lags", "gaussian_smooth"):
        assert planned_bytes[name] <= passed.pop(name)
    for name, count in passed.items():
        assert count == pytest.approx(planned_bytes[name], abs=64 * planned[name]), name


def test_a_latent_pass_moves_54_bytes_a_pixel(bench: Any) -> None:
    roofline = bench("roofline")
    grid = roofline.Grid(3, 1024, 4096)
    terms = ("dt_l0", "cufft_r2c", "spectral_solve", "cufft_c2r")
    assert sum(roofline.BYTES[name](grid) for name in terms) / grid.pixels == pytest.approx(54, rel=1e-3)


def test_a_transform_of_pictures_passes_over_memory_twice(bench: Any) -> None:
    roofline = bench("roofline")
    picture, spectrum = np.empty((3, 40, 36), np.float32), np.empty((3, 40, 19), np.complex64)
    lines, frequencies = np.empty((3, 1, 36), np.float32), np.empty((3, 1, 19), np.complex64)
    for name in ("cufft_r2c", "cufft_c2r"):
        assert roofline.BYTES[name](roofline.Grid(3, 40, 36)) == picture.nbytes + 3 * spectrum.nbytes
        assert roofline.BYTES[name](roofline.Grid(3, 1, 36)) == lines.nbytes + frequencies.nbytes


def test_of_many_items_three_launches_select(bench: Any, cupy: Any) -> None:
    roofline = bench("roofline")
    assert roofline.ONE_BLOCK_ITEMS == cuda._ONE_BLOCK_ITEMS
    assert roofline.selection_launches(cuda._ONE_BLOCK_ITEMS) == 1
    assert roofline.selection_launches(cuda._ONE_BLOCK_ITEMS + 1) == cuda._DIGITS


def test_the_floor_is_the_slower_of_moving_and_computing(bench: Any) -> None:
    roofline = bench("roofline")
    terms = list(roofline.plan((40, 33), (9, 9), QUICK, 2))
    moving = roofline.roofline(terms, 2, 1e9, math.inf)
    assert moving.seconds == pytest.approx(moving.bytes / 1e9)
    assert roofline.roofline(terms, 2, math.inf, 1e9).seconds == pytest.approx(moving.operations / 1e9)
    single = roofline.roofline(roofline.plan((40, 33), (9, 9), QUICK, 1), 1, 1e9, math.inf)
    assert single.bytes == moving.bytes  # a picture
    assert single.launches == moving.launches  # a call


def quick(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call each, on small arrays, so that the logic alone is left."""
    timing = sys.modules["timing"]
    whole, launches = timing.Host.time, timing.Cuda.time_launches
    monkeypatch.setattr(timing.Host, "time", lambda self, work, **_: whole(self, work, seconds=0, least=1))
    monkeypatch.setattr(timing.Cuda, "time_launches", lambda self, work: launches(self, work, repeats=2))
    monkeypatch.setattr(timing.Cuda, "warm_up", 1)
    monkeypatch.setattr(timing.Cuda, "copy_bandwidth", lambda self: timing.Host.copy_bandwidth(self, 1 << 10))
    monkeypatch.setattr(timing.Cuda, "operation_rate", lambda self: timing.Host.operation_rate(self, 16))
    if hasattr(module, "Load"):
        monkeypatch.setattr(module, "LOADS", (module.Load((40, 33), 9),))


OPTIONS = json.dumps({
    "iterations": 1, "kernel_iterations": 2, "beta_max": 0.1, "finest_beta_max": 0.1, "finest_iterations": 1,
    "starts": ["wide"],
})  # fmt: skip


def test_throughput_on_a_device(bench: Any, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches grow until memory ends, which is no failure; launches are as planned."""
    module = bench("throughput")
    quick(module, monkeypatch)
    run = module.Load.run

    def limited(self: Any, *arguments: Any) -> Any:
        if self.batch > 1:
            raise device.memory.OutOfMemoryError
        return run(self, *arguments)

    monkeypatch.setattr(module.Load, "run", limited)
    module.main(["--device", "cuda", "--options", OPTIONS, "--memory", "--longest", "inf"])
    (row,) = records(tmp_path, "throughput")
    assert (row["run"], row["gpu"], row["case"]) == ("rows", "a GPU of NumPy", "40x33_k9_b1")
    assert row["transforms"] == row["planned_transforms"]
    assert row["floor_ms"] > 0
    assert row["over_floor"] == pytest.approx(row["ms"] / row["floor_ms"])


def test_the_time_is_up(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = bench("throughput")
    module.main(["--seconds", "0"])
    assert "512x512_k25_b1: left out" in capsys.readouterr().out
    assert not (tmp_path / "throughput.jsonl").exists()


def test_what_was_measured_before_a_failure_is_recorded(bench: Any, tmp_path: Path) -> None:
    """A line a row, under one provenance."""
    evaluate = bench("evaluate")

    def rows() -> Iterator[dict[str, Any]]:
        yield {"case": "a", "ms": 1.0}
        yield {"case": "b", "ms": np.float64(2)}
        assert len(records(tmp_path, "some")) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate.show(evaluate.recorded("some", {"gpu": "none"}, rows()), {"case": "", "ms": ".1f"})
    first, second = records(tmp_path, "some")
    assert {**first, "case": "b", "ms": 2.0} == second
    assert {"date", "commit", "versions", "gpu"} <= first.keys()


@pytest.mark.parametrize(("gpu", "limit"), [("NVIDIA H100 80GB HBM3", 400), ("NVIDIA H200", 550), ("another", None)])
def test_the_bar_of_the_defaults_depends_on_the_gpu(bench: Any, gpu: str, limit: float | None) -> None:
    assert bench("throughput").default_bar(gpu) == limit


def test_bars_on_a_device(bench: Any, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = bench("throughput")
    quick(module, monkeypatch)
    small = {(255, 255): (40, 33), (96, 112): (33, 40), (2048, 2048): (48, 48), (512, 512): (40, 33)}

    class Small(module.Load):
        def __init__(self, shape: Any, kernel_size: int, batch: int = 1, final: str | None = None) -> None:
            super().__init__(small.get(shape, shape), 9, batch, final)

    monkeypatch.setattr(module, "Load", Small)
    monkeypatch.setattr(module, "FACES", Small((96, 112), 21, final="hyper-laplacian"))
    monkeypatch.setattr(module, "LARGE", Small((2048, 2048), 51))
    monkeypatch.setattr(module, "through_batch", lambda *_, **__: 0.5)  # needs streams; tested by itself
    monkeypatch.setattr(module.Bench, "peak", lambda *_: {"over_model": 1.1})
    monkeypatch.setattr(module, "device_name", lambda: "NVIDIA H200")
    options = json.dumps({**json.loads(OPTIONS), "starts": ["wide", "text"]})
    module.main(["--device", "cuda", "--options", options, "--bars", "--longest", "0"])
    lines = records(tmp_path, "throughput")
    bars, rows = ([line for line in lines if key in line] for key in ("bar", "case"))
    single = ["<= 40", ">= 550", "<= 3", "<= 15", ">= 1500", "<= 3"]
    limits = ["none", *single, ">= 5000", "<= 1.5", ">= 1000", "<= 0.2", "none"]
    assert [bar["limit"] for bar in bars] == limits
    assert [bar["holds"] is None for bar in bars] == [limit == "none" for limit in limits]
    assert [row["starts"] for row in rows] == [2, 1, 1, 1, 2]
    assert rows[0]["launches"] > 1.8 * rows[1]["launches"]
    assert all(math.isfinite(bar["measured"]) for bar in bars)
    assert {line["run"] for line in lines} == {"bars"}


def test_the_time_of_the_bars_begins_when_all_is_compiled(
    bench: Any, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = bench("throughput")
    quick(module, monkeypatch)
    deadlines: list[float] = []

    def slow(_: Any) -> dict[str, Any]:
        time.sleep(0.3)
        return module.beside("warm", 0.3)

    def bars(bench: Any) -> Iterator[dict[str, Any]]:
        deadlines.append(bench.deadline.left)
        yield module.bar("speed", 1, 2)

    monkeypatch.setattr(module, "warm", slow)
    monkeypatch.setattr(module, "bars_gpu", bars)
    module.main(["--device", "cuda", "--bars", "--seconds", "5"])
    assert deadlines[0] > 4.9
    assert [line["bar"] for line in records(tmp_path, "throughput")] == ["warm", "speed"]


def test_workers_side_by_side_and_a_stream(bench: Any) -> None:
    module = bench("throughput")
    row = module.workers_side_by_side(module.Load((40, 33), 9, 3), QUICK, repeats=2)
    assert [turn["others"] >= 0 for turn in row["turns"]] == [True, True]
    assert row["others"] == min(turn["others"] for turn in row["turns"])
    row = module.stream(6, "cpu", every=2)
    assert len(row["resident_mb"]) == 3
    assert row["growth_mb"] == pytest.approx(row["resident_mb"][-1] - row["resident_mb"][0])


def test_peak_memory_is_that_of_the_arrays(bench: Any) -> None:
    host = bench("timing").Host()
    assert host.peak_bytes(lambda: np.ones(1 << 20)) == pytest.approx(8 << 20, rel=0.01)


def test_each_cuda_kernel_has_its_line(bench: Any, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = bench("kernels")
    quick(module, monkeypatch)
    monkeypatch.setattr(module, "SIZES", (((40, 33), 9, 2),))
    module.main([])
    rows = records(tmp_path, "kernels")
    named = {kernel.name for kernel in module.KERNELS}
    assert named == set(bench("roofline").BYTES)
    assert named == {path.stem for path in cuda.SOURCES.glob("*.cu")} | {"cufft_r2c", "cufft_c2r"}
    assert len(rows) == len(module.KERNELS)
    for row in rows:
        assert row["gpu"] == "a GPU of NumPy"
        assert row["replayed"], row
        assert row["launches"] == (2 if row["case"].split()[0] in ("dilate", "gaussian_smooth") else 1), row
        assert row["gb_per_s"] > 0


def test_kernels_needs_a_gpu(bench: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = bench("kernels")

    def none() -> None:
        raise RuntimeError("there is none")

    monkeypatch.setattr(module.timing, "Cuda", none)
    with pytest.raises(SystemExit) as stopped:
        module.main([])
    assert stopped.value.code == 2
    assert "there is none" in capsys.readouterr().err


def test_peers_on_a_device(bench: Any, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = bench("peers")
    quick(module, monkeypatch)
    monkeypatch.setattr(module, "LOADS", ((60, 1), (60, 2)))
    monkeypatch.setattr(module, "cases", lambda: iter(()))
    module.main(["--device", "cuda"])
    *steps, worst = records(tmp_path, "peers")
    assert worst["measured"] == min(step["times"] for step in steps)
    for step in steps:
        assert step["difference"] < 1e-5
        assert step["times_replayed"] > 0


def test_agreement_on_a_device(bench: Any, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = bench("agreement")
    quick(module, monkeypatch)
    monkeypatch.setattr(module, "FAST", QUICK)
    estimate_kernel = gd.estimate_kernel

    def quick_estimate(image: Any, kernel_size: Any, options: Any = None) -> Any:
        return estimate_kernel(image[:1] if image.ndim == 3 else image, kernel_size, options=QUICK)

    monkeypatch.setattr(gd, "estimate_kernel", quick_estimate)
    blurred = np.random.default_rng(0).random((40, 33), np.float32)
    monkeypatch.setattr(module, "picture", lambda _: ("noise", blurred, (9, 9)))
    monkeypatch.setattr(module, "BOUND", 1.0)
    module.main([])
    rows = records(tmp_path, "agreement")
    assert [row["run"] for row in rows] == [
        "one iteration", "two iterations", "one start", "default", "one start", "one start", "default", "default",
    ]  # fmt: skip
    assert [row.get("batch") for row in rows] == [None] * 4 + [1, 64, 1, 64]


# ------------------------------------------------------------------ quality of kernels
def photograph(shape: tuple[int, ...], seed: int, clipped: bool = False) -> np.ndarray:
    """uint8: dark texture and a lamp, which is distinct from the rest unless it is `clipped`."""
    picture = 0.4 * np.random.default_rng(seed).random(shape)
    lamp = picture[: shape[0] // 4, : shape[1] // 4]
    lamp[:] = 1 if clipped else np.linspace(0.6, 1, lamp.shape[1]).reshape(-1, *[1] * (len(shape) - 2))
    return np.round(255 * picture).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a few small pictures of each kind, under the names of the real ones."""
    import imageio.v3 as iio
    from scipy.io import savemat

    folder = tmp_path / "data"
    for name in ("levin", "faces_hq", "faces", "natural/val", "real"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for image in (1, 2):
        x = photograph((60, 64), image) / 255
        for number in range(1, 9):
            f = trajectory_kernel(2 * number + 1, rng=number)
            y = blur(x, f[::-1, ::-1].copy(), mode="same")
            savemat(folder / "levin" / f"im{image:02d}_ker{number:02d}.mat", {"x": x, "y": y, "f": f})
    for stem in ("007500", "007501", "007999", "008000"):
        iio.imwrite(folder / "faces" / f"{stem}.jpg", photograph((109, 89, 3), int(rng.integers(99))))
    for i, stem in enumerate(("101", "102", "103", "104")):
        iio.imwrite(folder / "natural" / "val" / f"{stem}.jpg", photograph((90, 100, 3), i, clipped=stem == "102"))
    for stem in ("000001", "000002"):
        iio.imwrite(folder / "faces_hq" / f"{stem}.jpg", photograph((64, 64, 3), int(rng.integers(99))))
    iio.imwrite(folder / "real" / "shaken.png", photograph((70, 90, 3), 5))
    return folder


def quality_sets(bench: Any, data: Path) -> dict[str, list[Any]]:
    return {name: list(made(data)) for name, made in bench("quality").SETS.items()}


def test_the_sets_of_quality(bench: Any, data: Path) -> None:
    """Counts, names, sizes, grey levels; the rules that hold for each case of each set."""
    sets = quality_sets(bench, data)
    natural, night, text = 4 * 8, 3 * 4, 10 * 8  # one photograph is clipped, and makes no night
    assert {name: len(cases) for name, cases in sets.items()} == {
        "levin": 16, "portraits": 16, "small-faces": 24, "natural-0": natural, "natural-1": natural,
        "natural-2": natural, "text": text, "low-light": night,
    }  # fmt: skip
    for name, cases in sets.items():
        assert len({case.name for case in cases}) == len(cases), name
        for case in cases:
            assert case.picture, case.name
            assert case.blurred.shape == case.sharp.shape, case.name
            assert case.kernel.sum() == pytest.approx(1), case.name
            if name != "levin":  # floats as they were measured
                np.testing.assert_array_equal(case.blurred * 255, np.round(case.blurred * 255), err_msg=case.name)
                assert case.blurred.min() >= 0
                assert case.blurred.max() <= 1
    assert all(case.blurred.shape == (320, 320) for case in sets["portraits"])
    assert sorted({case.kernel.shape[0] for case in sets["portraits"]}) == list(range(21, 42, 2))
    assert {case.picture for case in sets["small-faces"]} == {"007501", "007999", "008000"}
    assert sets["small-faces"][0].blurred.shape == (107, 87)
    sizes = [case.kernel.shape[0] for case in sets["natural-0"][:8]]
    assert sizes == [7, 3, 9, 17, 21, 31, 41, 51]  # 3, 1, 4 and 8 of this folder's kernels, and the trajectories


def test_no_two_pictures_share_a_trajectory(bench: Any, data: Path) -> None:
    cases = [case for made in quality_sets(bench, data).values() for case in made if "trajectory" in case.name]
    kernels = {case.name: case.kernel.tobytes() for case in cases}
    assert len(set(kernels.values())) == len(kernels)
    for case in cases:
        assert case.kernel.tobytes() == kernels[case.name]  # the noises of a photograph do share it


def test_a_case_is_the_same_however_many_are_taken(bench: Any, data: Path) -> None:
    module, sets = bench("cases"), quality_sets(bench, data)
    few = [
        *module.mixed_cases(data, 0.01, count=1),
        *module.small_face_cases(data, count=2),
        *module.low_light_cases(data, count=1),
    ]
    known = {case.name: case for name in ("natural-1", "small-faces", "low-light") for case in sets[name]}
    assert len(few) == 8 + 16 + 4
    for case in few:
        for key in ("blurred", "sharp", "kernel"):
            np.testing.assert_array_equal(getattr(case, key), getattr(known[case.name], key), err_msg=case.name)


def test_the_noise_is_what_it_is_said_to_be(bench: Any, data: Path) -> None:
    sets = quality_sets(bench, data)
    for level, name in ((0.0, "natural-0"), (0.01, "natural-1"), (0.02, "natural-2")):
        for case, clean in zip(sets[name], sets["natural-0"], strict=True):
            inside = (clean.blurred > 0.1) & (clean.blurred < 0.9)  # where nothing is clipped
            found = float((case.blurred - clean.blurred)[inside].std())
            assert found == pytest.approx(level, rel=0.2, abs=1e-6), case.name
            assert case.noise_sigma == level
    noisy = [case for case in sets["text"] if case.noise_sigma]
    assert {case.noise_sigma for case in noisy} == {0.01}
    assert len(noisy) == len(sets["text"]) / 2
    for dark in (True, False):  # drawn pages: each kernel with noise on dark letters, and on light ones
        assert len({c.name.split("_")[1] for c in noisy if "_" in c.name and (c.sharp.mean() > 0.5) == dark}) == 8


def test_text_pages_are_full_of_text(bench: Any) -> None:
    pages = dict(bench("cases").text_pages())
    assert len(pages) == 10
    for name, page in pages.items():
        assert 0 <= page.min() < page.max() <= 1, name
        blocks = page[: page.shape[0] // 4 * 4, : page.shape[1] // 4 * 4]
        blocks = blocks.reshape(4, page.shape[0] // 4, 4, -1).swapaxes(1, 2)
        assert (np.ptp(blocks, axis=(2, 3)) > 0.15).sum() >= 14, name  # letters in each part, but for a corner
    drawn = [page for page in pages.values() if page.shape == (400, 480)]
    assert sum(np.median(page) > 0.5 for page in drawn) == len(drawn) / 2 == 4  # dark on light, light on dark


def test_lamps_at_night_are_clipped(bench: Any, data: Path) -> None:
    module = bench("cases")
    scene = module.night_scene(photograph((90, 100), 0) / 255)
    assert scene.max() > 1.1
    assert (scene > 1).mean() == pytest.approx(module.LIGHTS, abs=0.005)
    assert np.median(scene) < 0.3
    assert module.night_scene(photograph((90, 100), 0, clipped=True) / 255) is None
    assert module.night_scene(np.linspace(0.5, 1, 9000).reshape(90, 100)) is None  # bright all over
    for case in module.low_light_cases(data):
        assert case.sharp.max() == 1
        assert (case.sharp == 1).sum() > 50, case.name
    # Clipped after the blur: light of the lamp that a linear sensor would have seen is missing.
    case = next(module.low_light_cases(data))
    assert (case.blurred == 1).any()


@pytest.mark.parametrize("every", [1, 2, 4, 8, 20])
def test_thinned_sets_keep_all_kernels(bench: Any, every: int) -> None:
    module = bench("cases")
    empty = np.zeros((1, 1))
    cases = [module.Case(f"{p}_{k}", empty, empty, empty, 0.0, 0, str(p)) for p in range(50) for k in range(8)]
    taken = [case.name.split("_") for case in module.thinned(cases, every)]
    assert taken[0] == ["0", "0"]
    assert len(taken) == pytest.approx(400 / every, abs=2.5)
    for kernel in range(8):
        assert sum(int(k) == kernel for _, k in taken) == pytest.approx(50 / every, abs=1.5)


def test_items_are_made_as_they_are_needed(bench: Any) -> None:
    module, made = bench("evaluate"), []

    def items() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield -i

    found = module.parallel(abs, items(), 1)
    assert next(found) == 0
    assert len(made) < 6
    assert list(found) == list(range(1, 20))


def test_area_under_the_roc_curve(bench: Any) -> None:
    area = bench("evaluate").roc_area
    assert area(np.array([0.9, 0.8, 0.1]), np.array([True, True, False])) == 1
    assert area(np.array([0.1, 0.8]), np.array([True, False])) == 0
    assert area(np.array([0.5, 0.5, 0.5]), np.array([True, False, True])) == 0.5
    # 3 of 4 pairs in order
    assert area(np.array([0.9, 0.3, 0.4, 0.1]), np.array([True, True, False, False])) == 0.75
    assert math.isnan(area(np.array([0.9, 0.8]), np.array([True, True])))
    assert math.isnan(area(np.array([0.9, 0.8]), np.array([False, False])))


def test_intervals_draw_whole_pictures(bench: Any) -> None:
    """Ten equal values of a picture say no more than one."""
    interval = bench("evaluate").mean_interval
    values, pictures = [0.0, 1.0, 0.0, 1.0], list("abcd")
    mean, low, high = interval(values, pictures)
    assert (mean, low, high) == (0.5, 0, 1)
    assert interval([v for v in values for _ in range(10)], [p for p in pictures for _ in range(10)]) == (0.5, 0, 1)
    _, low, high = interval(values * 10, [str(i) for i in range(40)])
    assert 0.3 < low < 0.4
    assert 0.6 < high < 0.7


def quality_row(er: float, picture: str, confidence: float = 0.5, **changes: Any) -> dict[str, Any]:
    row = {"name": picture, "er": er, "picture": picture, "confidence": confidence, "psnr": 30.0, "ssim": 0.9,
           "similarity": 0.8, "gain": 2.0, "result_gain": 1.0, "psnr_blurred": 28.0, "psnr_true": 31.0,
           "seconds": 0.5}  # fmt: skip
    return row | changes


def test_totals_of_quality(bench: Any) -> None:
    quality = bench("quality")
    rows = [
        quality_row(1.0, "a", 0.9),
        quality_row(1.5, "a", 0.8, psnr_true=31.5),
        quality_row(3.0, "b", 0.85, result_gain=-2.0),
        quality_row(400.0, "c", 0.1, seconds=0.7),
    ]
    total = quality.totals(rows)
    assert (total["n"], total["pictures"]) == (4, 3)
    assert total["er_mean"] == pytest.approx(101.375)
    assert total["er_mean_capped"] == pytest.approx(15.5 / 4)  # 400 counts as 10
    assert total["er_mean_capped_95"] == pytest.approx([1.25, 10])
    assert total["er_median"] == 2.25
    assert total["er_max"] == 400
    assert [total[f"success_{bar}"] for bar in ("1.5", "2", "3")] == [0.5, 0.5, 0.75]
    assert total["success_2_95"] == [0, 1]
    assert total["blurred_success_2"] == 0.75  # 3 dB under the true kernel's: a ratio of 1.995
    assert total["result_gain_mean"] == 0.25
    assert total["result_gain_min"] == -2
    assert total["seconds_median"] == 0.5
    assert total["roc_area"] == 0.75
    assert quality.table([quality.table_row("default", total)], quality.COLUMNS).count("\n") == 2


def test_variants_are_compared_in_pairs(bench: Any) -> None:
    quality = bench("quality")
    first = [quality_row(2.0, "a"), quality_row(50.0, "b", psnr=20.0)]
    better = [quality_row(1.0, "a", psnr=31.0), quality_row(20.0, "b", psnr=21.0)]
    found = quality.over_first(better, first)
    assert found["psnr"] == pytest.approx((1, 1, 1))
    assert found["er_capped"] == pytest.approx((-0.5, -1, 0))
    with pytest.raises(ValueError, match="zip"):
        quality.over_first(better[:1], first)


def test_choosing_sets(bench: Any) -> None:
    quality = bench("quality")
    assert quality.chosen_sets("text,natural") == ["natural-0", "natural-1", "natural-2", "text"]
    with pytest.raises(quality.argparse.ArgumentTypeError, match="no set 'faces'"):
        quality.chosen_sets("faces")
    assert [quality.kernel_size(text) for text in ("true", "none", "35")] == ["true", None, 35]


def test_quality_from_pictures_to_record(
    bench: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two variants of a thinned set: what is printed, recorded and kept; and the trial's own figures."""
    quality = bench("quality")
    variants = json.dumps([{"name": "plain", "options": {"refine": False}}, {"name": "refined", "options": {}}])
    quality.main([
        "--data", str(data), "--sets", "levin", "--every", "5", "--jobs", "0", "--options", OPTIONS, "--verbose",
        "--variants", variants, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"),
        "--kernel-size", "9",
    ])  # fmt: skip
    plain, refined = records(tmp_path, "quality")
    assert (plain["variant"], refined["variant"]) == ("plain", "refined")
    assert plain["options"] == {**json.loads(OPTIONS), "refine": False}
    assert (plain["set"], plain["every"], plain["kernel_size"]) == ("levin", 5, 9)
    assert "over_first" in refined["totals"]
    kept = json.loads((tmp_path / "out" / "plain" / "levin.json").read_text())["rows"]
    assert plain["totals"]["n"] == len(kept) == len(plain["er_and_confidence"])
    for row in kept:
        assert plain["er_and_confidence"][row["name"]] == [round(row["er"], 4), round(row["confidence"], 3)]
        assert np.load(tmp_path / "out" / "plain" / "levin" / f"{row['name']}.npy").shape == (9, 9)
        assert row["size"] == [9, 9]
        assert 0 <= row["info"]["border_mass"] <= 1
    printed = capsys.readouterr().out
    assert "| refined |" in printed
    assert f"| {kept[0]['name']} |" in printed


def test_the_result_gain_is_of_what_deblur_returned(bench: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `deblur` that gives back the blurred picture gains nothing, whatever the kernel that it reports."""
    quality = bench("quality")
    case = next(quality.SETS["levin"](data))
    info = {"confidence": 0.25, "seconds_kernel": 1.5, "energy": -3.0}
    gives_up = types.SimpleNamespace(image=case.blurred, kernel=case.kernel, info=info)
    monkeypatch.setattr(gd, "deblur", lambda *_, **__: gives_up)
    row, kernel = quality.Trial()(case)
    assert row["result_gain"] == pytest.approx(0)
    assert row["gain"] > 0.5
    assert row["er"] == pytest.approx(1)
    assert (row["confidence"], row["seconds"], row["picture"]) == (0.25, 1.5, "im01")
    np.testing.assert_array_equal(kernel, case.kernel)


def test_quality_says_which_pictures_are_missing(bench: Any, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench("quality").main(["--data", str(data), "--sets", "levin", "--only", "im77"])
    assert "no cases of 'levin' with 'im77'" in capsys.readouterr().err


def test_contact_sheets(bench: Any, data: Path, tmp_path: Path) -> None:
    from PIL import Image

    sheets = bench("sheets")
    out = tmp_path / "sheets"
    out.mkdir()
    (out / "sheet_real_2.jpg").write_bytes(b"of an older run")
    sheets.main(["--data", str(data), "--folders", "real", "--kernel-size", "9", "--out", str(out)])
    assert [path.name for path in out.iterdir()] == ["sheet_real.jpg"]
    with Image.open(out / "sheet_real.jpg") as page:
        drawn = np.asarray(page)
    assert drawn.shape == (sheets.TITLE + sheets.CROP + 2 * sheets.GAP, 3 * sheets.CROP + 4 * sheets.GAP, 3)
    assert drawn[: sheets.GAP + sheets.TITLE].min() < 100  # the title


def test_a_sheet_shows_the_busiest_place(bench: Any) -> None:
    sheets = bench("sheets")
    picture = np.zeros((50, 61, 3))
    picture[31:40, 7:15] = np.random.default_rng(0).random((9, 8, 1))
    rows, columns = sheets.busiest(picture, 20)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (20, 20)
    assert rows.start <= 31 < 40 <= rows.stop
    assert columns.start <= 7 < 15 <= columns.stop
    assert sheets.busiest(picture, 200) == (slice(0, 50), slice(0, 61))
    assert sheets.middle(np.arange(10)[:, None, None] * np.ones((1, 3, 3)), 4)[:, 0, 0].tolist() == [3, 4, 5, 6]
    assert sheets.enlarged(np.eye(3), 7).size == (6, 6)


def test_the_learned_prior_from_pictures_to_plots(bench: Any, data: Path, tmp_path: Path) -> None:
    """With a network that is not trained: all figures are made, recorded and drawn."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    learned = bench("learned_prior")
    from gpudeblur.networks.classifier.network import Classifier
    from gpudeblur.networks.classifier.training import write_classifier

    weights = tmp_path / "w.safetensors"
    write_classifier(weights, Classifier((2, 2, 2, 2, 2)).initialise(0))
    common = ["--weights-file", str(weights), "--steps", "1"]
    learned.main(["accuracy", "--pictures", str(data / "natural"), "--single", str(weights), *common])
    few = ["--data", str(data), "--every", "16", "--options", OPTIONS, *common]
    learned.main(["kernels", "--weights", "0,1", *few])
    learned.main(["convergence", "--iterations", "2", *few])
    learned.main(["responses", *few])
    learned.main(["responses", "--eta", "2", *few])
    learned.main(["plots"])
    accuracy, kernels, convergence, responses, coupled = records(tmp_path, "learned_prior")
    assert {row["training"] for row in accuracy["rows"]} == {"multi-scale", "one scale"}
    alone, still_zero, zero, still, one = kernels["variants"].values()
    assert alone["er"] == still_zero["er"] == zero["er"]  # a weight of 0 is no prior
    assert alone["er"] != still["er"]
    assert alone["er"].keys() == one["er"].keys()
    for line in convergence["lines"].values():
        assert line["energy"][0] == 1
        assert len(line["similarity"]) == 2
    (row,) = responses["rows"]
    assert 0 < row["f_sharp"] < 1
    assert all(moved > 0 for moved in row["moved"].values())
    assert row["moved"] != coupled["rows"][0]["moved"]  # what --eta says reaches the splitting
    names = {"accuracy", "kernels", "convergence"}
    assert {path.stem for path in tmp_path.glob("*.svg")} == {f"learned_prior_{name}" for name in names}
