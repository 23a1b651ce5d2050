"""The benches of speed: what they count is what runs, and all that they do on a GPU is tried on one made of NumPy."""

from __future__ import annotations

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

pytest.importorskip("cupy", reason="gpudeblur._cuda.source needs it; no GPU is needed")
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

from cuda_on_cpu import device

import gpudeblur as gd
from gpudeblur import _cuda

BENCH = Path(__file__).parent.parent / "bench"
# Two scales, with and without passes that have the smooth map.
QUICK = gd.TwoStepOptions(iterations=2, kernel_iterations=3, beta_max=0.2, last_iterations=0)
IN_PLACE = {"spectral_solve": (1,), "transfer": (0,), "normal_spectra": (0, 1), "smooth_split": (4,)}


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


class Event:
    """A CUDA event on a device that has done everything at once."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


class OutOfMemoryError(MemoryError):
    pass


@pytest.fixture
def cupy(cpu_kernel: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with device.installed(cpu_kernel) as cupy:
        cupy.cuda.Event = Event
        cupy.cuda.get_elapsed_time = lambda begin, end: 1e3 * (end.at - begin.at)
        cupy.cuda.memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
        cupy.cuda.runtime.getDeviceProperties = lambda _: {"name": b"a GPU of NumPy"}
        cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
        config = types.SimpleNamespace(get_plan_cache=lambda: types.SimpleNamespace(
            clear=lambda: None, set_size=lambda _: None, set_memsize=lambda _: None))  # fmt: skip
        cupy.fft.config = config
        monkeypatch.setattr(device.Device, "synchronize", lambda _: device.waits(), raising=False)
        yield cupy


@pytest.mark.parametrize("final", [None, "hyper-laplacian"])
def test_the_plan_is_what_runs(bench: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch, final: str | None) -> None:
    """Launches and transforms one by one, and for each CUDA kernel the bytes of the arrays that it is given."""
    roofline = bench("roofline")
    from gpudeblur import _cuda

    launch, moved = _cuda._launch, Counter[str]()

    def watched(name: str, blocks: int, block: Any, *args: Any, **keywords: Any) -> None:
        arrays = [a for a in args if isinstance(a, cupy.ndarray)]
        again = [args[i] for i in IN_PLACE.get(name, ())]
        moved[name] += sum(a.nbytes for a in (*arrays, *again))
        launch(name, blocks, block, *args, **keywords)

    monkeypatch.setattr(_cuda, "_launch", watched)
    stack = np.random.default_rng(0).random((2, 40, 33), np.float32)
    gd.deblur(cupy.asarray(stack), 9, options=QUICK, final=final)
    terms = list(roofline.plan((40, 33), (9, 9), QUICK, 2))
    if final is not None:
        terms += roofline.plan_hyper_laplacian((40, 33), (9, 9), 2)
    planned, planned_bytes = Counter[str](), Counter[str]()
    for term in terms:
        planned[term.name] += term.count
        planned_bytes[term.name] += term.bytes
    assert dict(_cuda.launches) == {name: n for name, n in planned.items() if n and name not in roofline.ARRAYS}
    # These need less than the arrays hold: a rectangle, some lags, a few weights.
    for name in ("voting_threshold", "lags", "gaussian_smooth"):
        assert planned_bytes[name] <= moved.pop(name)
    for name, count in moved.items():
        assert count == pytest.approx(planned_bytes[name], abs=64 * planned[name]), name


def test_a_latent_pass_moves_38_bytes_a_pixel(bench: Any) -> None:
    roofline = bench("roofline")
    grid = roofline.Grid(3, 1024, 4096)
    terms = ("l0_split", "cufft_r2c", "spectral_solve", "cufft_c2r")
    assert sum(roofline.BYTES[name](grid) for name in terms) / grid.pixels == pytest.approx(38, rel=1e-3)


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


OPTIONS = json.dumps({"iterations": 1, "kernel_iterations": 2, "beta_max": 0.1, "last_iterations": 0})


def test_throughput_on_a_device(bench: Any, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches grow until memory ends, which is no failure; launches are as planned."""
    module = bench("throughput")
    quick(module, monkeypatch)
    run = module.Load.run

    def limited(self: Any, *arguments: Any) -> Any:
        if self.batch > 1:
            raise OutOfMemoryError
        return run(self, *arguments)

    monkeypatch.setattr(module.Load, "run", limited)
    module.main(["--device", "cuda", "--options", OPTIONS, "--memory", "--longest", "inf"])
    (line,) = records(tmp_path, "throughput")
    assert line["gpu"] == "a GPU of NumPy"
    assert [row["case"] for row in line["rows"]] == ["40x33_k9_b1"]
    for row in line["rows"]:
        assert row["transforms"] == row["planned_transforms"]
        assert row["floor_ms"] > 0
        assert row["over_floor"] == pytest.approx(row["ms"] / row["floor_ms"])


def test_the_time_is_up(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = bench("throughput")
    module.main(["--seconds", "0"])
    assert "512x512_k25_b1: left out" in capsys.readouterr().out
    assert records(tmp_path, "throughput")[0]["rows"] == []


def test_bars_on_a_device(bench: Any, cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = bench("throughput")
    quick(module, monkeypatch)
    small = {(255, 255): (40, 33), (96, 112): (33, 40), (2048, 2048): (48, 48)}

    class Small(module.Load):
        def __init__(self, shape: Any, kernel_size: int, batch: int = 1, final: str | None = None) -> None:
            super().__init__(small.get(shape, shape), 9, batch, final)

    monkeypatch.setattr(module, "Load", Small)
    monkeypatch.setattr(module, "FACES", Small((96, 112), 21, final="hyper-laplacian"))
    monkeypatch.setattr(module, "through_batch", lambda *_, **__: 0.5)  # needs streams; tested by itself
    monkeypatch.setattr(module.Bench, "peak", lambda *_: {"over_model": 1.1})
    module.main(["--device", "cuda", "--options", OPTIONS, "--bars", "--longest", "0"])
    (line,) = records(tmp_path, "throughput")
    assert len(line["bars"]) == 7
    assert all(math.isfinite(one["measured"]) for one in line["bars"])


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
    (line,) = records(tmp_path, "kernels")
    named = {kernel.name for kernel in module.KERNELS}
    assert named == set(bench("roofline").BYTES)
    assert named == {path.stem for path in _cuda.SOURCES.glob("*.cu")} | {"cufft_r2c", "cufft_c2r"}
    assert len(line["rows"]) == len(module.KERNELS)
    for row in line["rows"]:
        assert row["replayed"], row
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
    (line,) = records(tmp_path, "peers")
    for row in line["latent_steps"]:
        assert row["difference"] < 1e-5
        assert row["times_replayed"] > 0
