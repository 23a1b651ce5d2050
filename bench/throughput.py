"""Pictures a second and milliseconds a picture of kernel estimation, and how far that is from the hardware's floor.

    python bench/throughput.py [--device cuda] [--only SUBSTRING] [--memory] [--seconds S]
    python bench/throughput.py --bars [--device cuda]     what has a bar to reach, against it
    python bench/throughput.py --stream 10000             memory while many small pictures pass through deblur_batch

Sizes 96 x 112 to 2048 x 2048, kernels of 15, 25 and 51 px; on a GPU batches of 1, 4, 16 ... until memory ends or a
call takes a second. The pictures are scikit-image's camera, resized, under trajectory kernels with fixed seeds. The
floor is, on the CPU, the CPU time of the same transforms alone on one thread; on a GPU, what `roofline.plan` says
must be moved, at the bandwidth of a copy measured in the same run. `--memory` runs each row once more and adds the
peak: over the input's float32 size, and over what `gpudeblur.memory` predicts. Each row and each bar is appended to
results/throughput.jsonl as soon as it is measured.
"""

from __future__ import annotations

import timing  # before NumPy

# isort: split
import argparse
import dataclasses
import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from .evaluate import Row, arguments, device_name, recorded, settings, show
from roofline import plan, plan_hyper_laplacian, roofline

import gpudeblur
from gpudeblur.synthesis import blur, trajectory_kernel

SEED = 20
SHAPES = ((96, 112), (255, 255), (512, 512), (1024, 1024), (2048, 2048))
KERNELS = (15, 25, 51)
COLUMNS = {
    "case": "", "per_second": ".2f", "ms": ".3f", "host_ms": ".3f", "cpu_ms": ".3f", "transforms": "d", "launches": "d",
    "gigabytes": ".3f", "floor_ms": ".3f", "over_floor": ".2f", "over_input": ".1f",
    "over_model": ".2f",
}  # fmt: skip
BAR_COLUMNS = {"bar": "", "limit": "", "measured": ".4g", "holds": ""}
# Real or complex, all that a step may call; each entry of the count is one call.
TRANSFORMS = ("rfft2", "irfft2", "rfftn", "irfftn", "fft2", "ifft2", "fftn", "ifftn")
Calls = Counter[tuple[str, tuple[int, ...], str]]


# ------------------------------------------------------------------ what is run
@functools.cache
def sharp_picture(shape: tuple[int, int]) -> np.ndarray:
    from skimage.data import camera
    from skimage.transform import resize

    return resize(camera().astype(np.float64) / 255, shape, anti_aliasing=True)


@functools.cache
def blurred_picture(shape: tuple[int, int], kernel_size: int, seed: int) -> np.ndarray:
    return blur(sharp_picture(shape), trajectory_kernel(kernel_size, rng=SEED + seed), mode="same").astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Load:
    """One row: `batch` pictures of `shape`, kernels of `kernel_size`; the kernel alone, or a restoration too."""

    shape: tuple[int, int]
    kernel_size: int
    batch: int = 1
    final: str | None = None

    @property
    def name(self) -> str:
        final = "" if self.final is None else f"_{self.final}"
        return f"{self.shape[0]}x{self.shape[1]}_k{self.kernel_size}_b{self.batch}{final}"

    def pictures(self, dtype: str) -> np.ndarray:
        """(H, W), or (batch, H, W) of differently blurred ones; from the 17th on they come again."""
        found = [blurred_picture(self.shape, self.kernel_size, i) for i in range(min(self.batch, 16))]
        stack = np.stack([found[i % len(found)] for i in range(self.batch)]).astype(dtype)
        return stack if self.batch > 1 else stack[0]

    def run(self, pictures: Any, options: gpudeblur.TwoStepOptions) -> Any:
        return gpudeblur.deblur(pictures, self.kernel_size, final=self.final, options=options).kernel

    def larger(self) -> Load:
        return dataclasses.replace(self, batch=4 * self.batch)


FAST = {"starts": ("wide",)}
PLANS = {"hyper-laplacian": plan_hyper_laplacian}
FACES = Load((96, 112), 21, final="hyper-laplacian")
LARGE = Load((2048, 2048), 51)
LOADS = (*(Load(shape, k) for shape in SHAPES for k in KERNELS), FACES)
DEFAULT_BARS = {"H100": 400, "H200": 550}  # pictures/s of 255 x 255, k = 25, with the default options, by the GPU


# ------------------------------------------------------------------ the floor
def count_transforms(fft: Any, work: Callable[[], Any]) -> Calls:
    """Calls of the FFT module by name, shape of the transform's (real) side and dtype."""
    calls: Calls = Counter()

    def watch(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, *arguments: Any, **keywords: Any) -> Any:
            result = original(x, *arguments, **keywords)
            given = result if name.startswith("i") else x
            size = keywords.get("s") or (arguments[0] if arguments else None) or given.shape[-2:]
            calls[name, (*given.shape[:-2], *size), str(given.dtype)] += 1
            return result

        return call

    with timing.replaced(fft, **{name: watch(name, getattr(fft, name)) for name in TRANSFORMS if hasattr(fft, name)}):
        work()
    return calls


def transform_floor(backend: timing.Host, calls: Calls) -> tuple[float, float]:
    """CPU seconds that the counted transforms take alone, and the bytes they read and write."""
    seconds = moved = 0.0
    for (name, shape, dtype), count in calls.items():
        work = getattr(backend.fft, name)
        real = backend.xp.ones(shape, dtype)
        spectrum = backend.fft.rfft2(real) if "rfft" in name else backend.fft.fft2(real)
        source = spectrum if name.startswith("i") else real
        keywords = {"s": shape[-2:]} if name.startswith("irfft") else {}

        def one(w: Any = work, x: Any = source, k: Any = keywords) -> Any:
            return w(x, axes=(-2, -1), **k)

        seconds += count * backend.time(one, seconds=0.1, most=9).cpu
        moved += count * (real.nbytes + spectrum.nbytes)
    return seconds, moved


# ------------------------------------------------------------------ a row
@dataclasses.dataclass
class Bench:
    """One run: where, with what options, at what speed this machine copies and multiplies."""

    backend: timing.Host
    options: gpudeblur.TwoStepOptions
    deadline: timing.Deadline
    memory: bool
    bandwidth: float
    rate: float
    longest: float = 1.0  # seconds: a larger batch is not tried after a call this long

    @property
    def cuda(self) -> bool:
        return self.backend.device == "cuda"

    def measure(self, load: Load) -> dict[str, Any]:
        """One row; the memory's run comes last and does not count for the time."""
        pictures = self.backend.put(load.pictures(self.options.dtype))
        work = functools.partial(load.run, pictures, self.options)
        row: dict[str, Any] = {"case": load.name, "starts": len(self.options.starts)}
        if self.cuda:
            row |= self._on_device(load, work)
        else:
            calls = count_transforms(self.backend.fft, work)  # a first run, too
            seconds, moved = transform_floor(self.backend, calls)
            row |= {"transforms": calls.total(), "launches": 0, "gigabytes": moved / load.batch / 1e9}
            row["floor_ms"] = 1e3 * seconds / load.batch
        # What was run just now was warm-up enough for a long call: too large a stack for CUDA graphs, seconds on a CPU.
        pixels = load.batch * load.shape[0] * load.shape[1]
        warm_up = 0 if pixels > 1 << (22 if self.cuda else 20) else self.backend.warm_up
        least = 3 if self.cuda or warm_up else 1
        with timing.replaced(self.backend, warm_up=warm_up):
            timings = self.backend.time(work, seconds=0.5 if self.cuda else 2.0, least=least)
        row |= {"per_second": load.batch / timings.seconds, "ms": 1e3 * timings.seconds / load.batch}
        row |= {f"{name}_ms": 1e3 * getattr(timings, name) / load.batch for name in ("host", "cpu", "device")}
        row |= {"calls": timings.calls, "seconds_a_call": timings.seconds, "over_input": nan, "over_model": nan}
        # Both in CPU time where there is no GPU, so that the ratio does not depend on who else is at work.
        row["over_floor"] = row["ms" if self.cuda else "cpu_ms"] / row["floor_ms"] if row["floor_ms"] else nan
        if self.memory:
            row |= self.peak(load, work)
        return row

    def peak(self, load: Load, work: Callable[[], Any] | None = None) -> dict[str, Any]:
        """The peak of one call, over its input's float32 size and over what the model of memory says."""
        from gpudeblur.memory import bytes_per_picture

        if work is None:
            work = functools.partial(load.run, self.backend.put(load.pictures(self.options.dtype)), self.options)
        peak = self.backend.peak_bytes(work)
        model = load.batch * bytes_per_picture(
            load.shape, load.kernel_size, final=load.final, options=self.options, backend=self.backend.name
        )
        pixels = load.batch * load.shape[0] * load.shape[1]
        return {"peak_bytes": peak, "over_input": peak / (4 * pixels), "over_model": peak / model}

    def _on_device(self, load: Load, work: Callable[[], Any]) -> dict[str, Any]:
        from gpudeblur import _graphs
        from gpudeblur._cuda import launches

        before = launches.copy()
        self.backend.free()
        with timing.replaced(_graphs, GRAPH_PIXELS=0):  # a CUDA graph would hide its launches
            work()
        done = launches - before
        size = (load.kernel_size, load.kernel_size)
        terms = list(plan(load.shape, size, self.options, load.batch))
        if load.final is not None:
            terms += PLANS[load.final](load.shape, size, load.batch)
        floor = roofline(terms, load.batch, self.bandwidth, self.rate)
        return {
            "transforms": done["cufft_r2c"] + done["cufft_c2r"], "launches": done.total(), "counts": dict(done),
            "planned_transforms": floor.transforms, "planned_launches": floor.launches.total(),
            "gigabytes": floor.bytes / 1e9, "gigaoperations": floor.operations / 1e9, "floor_ms": 1e3 * floor.seconds,
        }  # fmt: skip

    def batches(self, load: Load) -> Iterator[dict[str, Any]]:
        """`load`, on a GPU four times as many until memory ends, or a call takes too long, or the time is up."""
        while self.deadline.left > 0:
            try:
                row = self.measure(load)
            except Exception as why:
                if not self.backend.is_out_of_memory(why):
                    raise
                print(f"{load.name}: {type(why).__name__}", flush=True)
                return
            finally:
                self.backend.free()
            yield row
            if not self.cuda or row["seconds_a_call"] > self.longest:
                return
            load = load.larger()
        print(f"{load.name}: left out, the time is up", flush=True)


# ------------------------------------------------------------------ deblur_batch
def through_batch(pictures: Any, load: Load, options: gpudeblur.TwoStepOptions, **how: Any) -> float:
    """Seconds a picture."""
    start = time.perf_counter()
    count = 0
    for result in gpudeblur.deblur_batch(pictures, load.kernel_size, final=load.final, options=options, **how):
        if result.error is not None:
            raise result.error
        count += 1
    return (time.perf_counter() - start) / count


def workers_side_by_side(load: Load, options: gpudeblur.TwoStepOptions, repeats: int) -> dict[str, Any]:
    """`load.batch` pictures one by one, through deblur_batch with one worker, and with two; `repeats` such turns.

    `others` is how many CPUs other processes kept busy: only where that is about 0 do two workers have two CPUs, so the
    row holds the turn in which it was least.
    """
    stack = load.pictures(options.dtype)
    one = dataclasses.replace(load, batch=1)

    def singly() -> None:
        for picture in stack:
            one.run(picture, options)

    runs: dict[str, Callable[[], Any]] = {"single": singly}
    for name, workers in (("one_worker", 1), ("two_workers", 2)):
        runs[name] = functools.partial(through_batch, stack, load, options, workers=workers)
    one.run(stack[0], options)
    turns: list[dict[str, float]] = []
    for _ in range(repeats):
        turn = {"others": 0.0}
        for name, run in runs.items():
            watch = timing.Watch()
            run()
            wall, cpu, others = watch.read()
            turn |= {f"{name}_ms": 1e3 * wall / load.batch, f"{name}_cpu_ms": 1e3 * cpu / load.batch}
            turn["others"] = max(turn["others"], others / wall)
        turn["two_over_one"] = turn["one_worker_ms"] / turn["two_workers_ms"]
        turn["batch_over_single"] = turn["one_worker_ms"] / turn["single_ms"]
        turn["cpu_two_over_single"] = turn["two_workers_cpu_ms"] / turn["single_cpu_ms"]
        turns.append(turn)
        print({key: round(value, 3) for key, value in turn.items()}, flush=True)
    quietest = min(turns, key=lambda turn: turn["others"])
    return {"case": f"{load.name} through deblur_batch", "turns": turns, **quietest}


# ------------------------------------------------------------------ bars
def bar(what: str, measured: float, limit: float, *, least: bool = False) -> dict[str, Any]:
    """A line of the table: `measured` may be at most `limit`, or at least."""
    holds = measured >= limit if least else measured <= limit
    return {"bar": what, "limit": f"{'>=' if least else '<='} {limit:g}", "measured": measured, "holds": holds}


def beside(what: str, measured: float) -> Row:
    """A line without a bar."""
    return {"bar": what, "limit": "none", "measured": measured, "holds": None}


def one_start(bench: Bench) -> Bench:
    return dataclasses.replace(bench, options=dataclasses.replace(bench.options, **FAST))


def memory_bar(bench: Bench, loads: Sequence[Load]) -> Row:
    """Of several loads the one whose peak is furthest from the model's."""
    ratios = {load.name: bench.peak(load)["over_model"] for load in loads}
    name = max(ratios, key=lambda load: abs(ratios[load] - 1))
    what = f"peak memory off the model's, the worst of {len(ratios)}: {name}"
    return {**bar(what, abs(ratios[name] - 1), 0.2), "all": ratios}


def bars_cpu(bench: Bench, repeats: int) -> Iterator[Row]:
    """Measured rows, and the bars that they are held against."""
    load, fast = Load((255, 255), 25), one_start(bench)
    yield (row := fast.measure(load))
    yield bar("CPU, one thread, 255 x 255, k = 25, one start: seconds", row["ms"] / 1e3, 0.30)
    yield (row := bench.measure(load))
    yield beside("CPU, one thread, 255 x 255, k = 25: seconds", row["ms"] / 1e3)
    turns = workers_side_by_side(dataclasses.replace(load, batch=64), fast.options, repeats)
    yield {**bar("64 of them, two workers over one: times", turns["two_over_one"], 1.7, least=True), "turns": turns}
    # 2 %: two medians of the same work differ by as much.
    yield bar("the same, one worker over single calls: times the seconds", turns["batch_over_single"], 1.02)
    finals = (None, "hyper-laplacian", "sparse")
    yield memory_bar(bench, [Load(shape, 25, final=final) for shape in ((255, 255), (512, 512)) for final in finals])


def default_bar(gpu: str) -> float | None:
    """Pictures/s with the default options on the GPU of that name; None for one without a bar."""
    return next((limit for name, limit in DEFAULT_BARS.items() if name in gpu), None)


def bars_gpu(bench: Bench) -> Iterator[Row]:
    """Measured rows, and the bars that they are held against; the most important first."""
    load, fast = Load((255, 255), 25), one_start(bench)
    yield from speed_bars(bench, load, "255 x 255, k = 25", default_bar(device_name()), 40)
    yield from speed_bars(fast, load, "255 x 255, k = 25, one start", 1500, 15)
    yield from speed_bars(fast, FACES, "96 x 112, k = 21, one start and hyper-Laplacian", 5000)
    if bench.deadline.left > 0:
        yield (row := fast.measure(LARGE))
        yield bar("2048 x 2048, k = 51, one start, alone: seconds", row["ms"] / 1e3, 1.5)
        bench.backend.free()
    if bench.deadline.left > 0:
        # What a user sees: pictures on the host, copied both ways. Two rounds: the first plans and captures.
        stack = dataclasses.replace(load, batch=1024).pictures("float32")
        seconds = min(through_batch(stack, load, fast.options, device="cuda") for _ in range(2))
        what = "255 x 255, k = 25, one start, through deblur_batch from and to the host: pictures/s"
        yield bar(what, 1 / seconds, 1000, least=True)
        bench.backend.free()
    if bench.deadline.left > 0:  # stacks too large for CUDA graphs, whose memory the model does not count
        finals = (None, "hyper-laplacian", "sparse")
        yield memory_bar(bench, [Load((512, 512), 25, 64, final) for final in finals])
    yield from speed_bars(bench, FACES, "96 x 112, k = 21, hyper-Laplacian")


def speed_bars(
    bench: Bench, load: Load, what: str, per_second: float | None = None, alone_ms: float | None = None
) -> Iterator[Row]:
    """Rows of growing batches; pictures/s of the best and milliseconds of one picture alone, with their bars."""
    rows: list[Row] = []
    for row in bench.batches(load):
        yield row
        if not rows and alone_ms is not None:
            yield bar(f"{what}, alone: ms", row["ms"], alone_ms)
        rows.append(row)
    if rows:
        best = max(rows, key=lambda row: row["per_second"])
        name = f"{what}, full batches: pictures/s"
        measured = best["per_second"]
        yield beside(name, measured) if per_second is None else bar(name, measured, per_second, least=True)
        if load.final is None:
            yield bar(f"{what}, full batches: measured over floor", best["over_floor"], 3)


def warm(bench: Bench) -> Row:
    """Seconds of one call of each shape among the bars on a GPU: what is compiled is compiled afterwards."""
    start = time.perf_counter()
    fast = one_start(bench).options
    largest_stack = Load((512, 512), 25, 2, "sparse")
    for load, options in ((Load((255, 255), 25), bench.options), (FACES, fast), (LARGE, fast), (largest_stack, fast)):
        for batch in {load.batch, 2}:  # a picture and a stack of them
            pictures = dataclasses.replace(load, batch=batch).pictures(options.dtype)
            load.run(bench.backend.put(pictures), options)
        bench.backend.free()
    return beside("one call of each shape, which compiles: seconds", time.perf_counter() - start)


# ------------------------------------------------------------------ a long stream
def resident_bytes() -> int:
    """Of this process, as Linux tells it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stream(count: int, device: str, every: int = 1000) -> dict[str, Any]:
    """Memory of this process every so many results while `count` different 32 x 32 pictures pass through deblur_batch.

    Quick options: what is kept from one picture to the next does not depend on the number of iterations.
    """
    options = gpudeblur.TwoStepOptions(iterations=2, kernel_iterations=5, last_iterations=1, **FAST)
    random = np.random.default_rng(SEED)
    base = blurred_picture((32, 32), 7, 0)
    made = (base + random.normal(0, 0.01, base.shape).astype(np.float32) for _ in range(count))
    resident: list[float] = []
    used: list[float] = []  # of the device
    start = time.perf_counter()
    for result in gpudeblur.deblur_batch(made, 7, final="hyper-laplacian", options=options, device=device):
        if result.error is not None:
            raise result.error
        if (result.index + 1) % every == 0:
            resident.append(resident_bytes() / 1e6)
            if device == "cuda":
                import cupy

                free, total = cupy.cuda.Device().mem_info
                used.append((total - free) / 1e6)
            print(f"{result.index + 1} pictures: {resident[-1]:.1f} MB{f', device {used[-1]:.1f} MB' if used else ''}")
    seconds = time.perf_counter() - start
    row = {"pictures": count, "resident_mb": resident, "device_mb": used, "per_second": count / seconds}
    for name, values in (("growth_mb", resident), ("device_growth_mb", used)):
        row[name] = values[-1] - values[0] if values else nan
    return {**row, "threads_left": threading.active_count()}


# ------------------------------------------------------------------ the command
def parser() -> argparse.ArgumentParser:
    command = arguments(
        __doc__, "device", "dtype", "options", "only", "seconds", "no-record",
        device={"choices": ["cpu", "cuda"], "default": "cpu"},
        dtype={"default": "float32", "help": "of pictures and options"},
        only={"help": "substring of the rows to run, such as 255x255_k25; not recorded"},
    )  # fmt: skip
    command.add_argument("--longest", type=float, default=1.0, help="seconds of a call that end a row of batches")
    command.add_argument("--memory", action="store_true", help="peak memory too")
    command.add_argument("--bars", action="store_true", help="what has a bar; --seconds begin when all is compiled")
    command.add_argument("--repeats", type=int, default=3, help="turns of the rows that are compared side by side")
    command.add_argument("--stream", type=int, metavar="N", help="N small pictures through deblur_batch, nothing else")
    return command


def rows_of(args: argparse.Namespace, bench: Bench) -> Iterator[Row]:
    """What is measured, as it is measured."""
    if args.bars and bench.cuda:
        yield warm(bench)
        yield from bars_gpu(dataclasses.replace(bench, deadline=timing.Deadline(args.seconds)))
    elif args.bars:
        yield from bars_cpu(bench, args.repeats)
    else:
        for load in LOADS:
            if args.only in load.name:
                yield from bench.batches(load)


def stream_bar(count: int, device: str) -> Iterator[Row]:
    row = stream(count, device)
    what = f"{count} pictures streamed: MB more at the end than after the first 1,000"
    yield {**bar(what, row["growth_mb"], 5), **row}


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if not any(args.only in load.name for load in LOADS):
        raise SystemExit(f"no row has {args.only!r} in its name")
    backend = timing.backend(args.device)
    line = {**settings(args, "options", "device", "dtype", "seconds"), "load_average": os.getloadavg()[0]}
    if args.stream:
        print("deblur_batch, 32 x 32 pictures, k = 7, quick options\n")
        line["run"], rows = "stream", stream_bar(args.stream, args.device)
    else:
        options = dataclasses.replace(gpudeblur.TwoStepOptions(**args.options), dtype=args.dtype)
        deadline = timing.Deadline(args.seconds)
        bandwidth, rate = backend.copy_bandwidth(), backend.operation_rate()
        bench = Bench(backend, options, deadline, args.memory, bandwidth, rate, args.longest)
        print(f"{backend.name}, {args.dtype}: copy {bandwidth / 1e9:.1f} GB/s, product {rate / 1e12:.2f} TFLOP/s\n")
        line |= {"copy_gb_per_s": bandwidth / 1e9, "product_tflop_per_s": rate / 1e12}
        line["run"], rows = "bars" if args.bars else "rows", rows_of(args, bench)
    if not args.no_record and not args.only:
        rows = recorded("throughput", line, rows)
    show(rows, BAR_COLUMNS, COLUMNS)


if __name__ == "__main__":
    main()
