"""Files through Dask: speed of processes beside threads, cost a picture, memory of the driver, and workers killed.

python -m bench distributed scaling [--pictures 64] [--side 255]
python -m bench distributed overhead [--pictures 500]
python -m bench distributed memory [--pictures 20000]
python -m bench distributed tiny [--counts 100 1000 10000]
python -m bench distributed kills [--pictures 500] [--seconds 20] [--poison 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np

import gpudeblur as gd
from gpudeblur.batch import folders
from gpudeblur.batch.journal import JOURNAL_NAME, Journal
from gpudeblur.distributed import LOCAL_CONFIGURATION, deblur_files
from gpudeblur.images.files import read_image, write_image

ROOT = Path(__file__).parents[1]
SHORT = gd.TwoStepOptions(iterations=1, kernel_iterations=2, refine=False, starts=("wide",))
FINAL = "hyper-laplacian"
# Workers that die of some files, and where asked for return each picture as it is.
PRELOAD = """
import os, signal
from types import SimpleNamespace
import numpy as np
from gpudeblur.batch import cpu, folders

def read_or_die(path, read_image=folders.read_image):
    if path.stem.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read_image(path)

def copy(image, **_):
    stack, kernel = image.shape[:-3], np.full((*image.shape[:-3], 3, 3), 1 / 9, np.float32)
    info = {"confidence": np.ones(stack) if stack else 1.0, "seconds": 0.0}
    return SimpleNamespace(image=image.copy(), kernel=kernel, info=info)

if folders.read_image.__name__ == "read_image":  # dask runs this twice
    folders.read_image = read_or_die
if os.environ.get("BENCH_COPIES"):
    cpu.deblur_masked = copy
"""


@contextmanager
def cluster(workers: int, folder: Path) -> Iterator[Any]:
    """A client of `workers` processes with one thread each."""
    preload = folder / "bench_preload.py"
    preload.write_text(PRELOAD)
    with (
        dask.config.set(LOCAL_CONFIGURATION),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50, preload=[str(preload)],
            scheduler_kwargs={"allowed_failures": 0, "dashboard_address": ":0"},
        ) as local,
        distributed.Client(local) as client,
    ):  # fmt: skip
        yield client


def make_files(folder: Path, count: int, side: int) -> Path:
    """Blurred pieces of skimage's photographs, or for small sides noise."""
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 256, (side, side), dtype=np.uint8)
        if side >= 64:
            from skimage import data

            photo = [data.camera(), data.brick(), data.grass(), data.gravel()][i % 4]
            top, left = rng.integers(0, 512 - side - 24, 2)
            kernel = gd.synthesis.trajectory_kernel(int(rng.integers(7, 13)) * 2 + 1, rng=rng)
            piece = photo[top : top + side + len(kernel) - 1, left : left + side + len(kernel) - 1] / 255
            from scipy.signal import fftconvolve

            blurred = fftconvolve(piece, kernel, "valid") + 0.005 * rng.standard_normal((side, side))
            pixels = (blurred.clip(0, 1) * 255).round().astype(np.uint8)
        write_image(folder / f"{i:05}.png", pixels)
    return folder


def in_threads(folder: Path, out: Path, workers: int, kernel_size: int, options: Any) -> tuple[float, float]:
    """Wall and CPU seconds of `gpudeblur batch` without its start."""
    wall, cpu = time.perf_counter(), time.process_time()
    with Journal(out) as journal:
        decisions = folders.decide(folders.plan([folder], out).tasks, journal, "")
        settings: dict[str, Any] = {"final": FINAL, "options": options, "workers": workers}
        rows = [*folders.deblur_files(decisions, journal, {}, kernel_size, **settings)]
    assert {row.status for row in rows} == {"written"}
    return time.perf_counter() - wall, time.process_time() - cpu


def in_processes(
    client: Any, folder: Path, out: Path, kernel_size: int, options: Any
) -> tuple[float, list[float], float]:
    """Wall seconds, CPU seconds of each worker, and of the driver."""
    before = client.run(time.process_time)
    wall, cpu = time.perf_counter(), time.process_time()
    rows = [*deblur_files(folder, out, kernel_size, client=client, device="cpu", final=FINAL, options=options)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = client.run(time.process_time)
    assert {row.status for row in rows} == {"written"}
    return wall, [after[worker] - before[worker] for worker in after], cpu


def scaling(folder: Path, pictures: int, side: int) -> None:
    options = gd.TwoStepOptions(starts=("wide",))
    source = make_files(folder / "in", pictures, side)
    work: dict[str, float] = {}
    for workers in (1, 2):
        wall, cpu = in_threads(source, folder / f"threads{len(work)}", workers, 25, options)
        work[f"{len(work)} threads"] = wall
        print(f"{workers} threads: {wall:.1f} s, {pictures / wall:.2f} a second, CPU {cpu:.1f} s", flush=True)
        with cluster(workers, folder) as client:
            client.run(lambda: __import__("gpudeblur.distributed"))
            wall, workers_cpu, driver_cpu = in_processes(client, source, folder / f"dask{len(work)}", 25, options)
        text = ", ".join(f"{seconds:.1f}" for seconds in workers_cpu)
        print(
            f"{workers} processes: {wall:.1f} s, {pictures / wall:.2f} a second, CPU of the workers {text} s, of the "
            f"driver {driver_cpu:.1f} s",
            flush=True,
        )


def overhead(folder: Path, pictures: int) -> None:
    source = make_files(folder / "in", pictures, 24)
    warm = make_files(folder / "warm", 2, 24)
    in_threads(warm, folder / "warm_threads", 1, 5, SHORT)
    for turn in range(2):
        wall, cpu = in_threads(source, folder / f"threads{turn}", 1, 5, SHORT)
        with cluster(1, folder) as client:
            in_processes(client, warm, folder / f"warm_dask{turn}", 5, SHORT)
            dask_wall, workers_cpu, driver_cpu = in_processes(client, source, folder / f"dask{turn}", 5, SHORT)
        total = sum(workers_cpu) + driver_cpu
        print(f"a picture in ms: thread {1e3 * wall / pictures:.2f} (CPU {1e3 * cpu / pictures:.2f}), ", end="")
        print(f"Dask {1e3 * dask_wall / pictures:.2f} (CPU {1e3 * total / pictures:.2f}, ", end="")
        print(f"of it the driver {1e3 * driver_cpu / pictures:.2f})", flush=True)


def memory(folder: Path, pictures: int) -> None:
    """Of the driver, over pictures that the workers copy."""
    os.environ["BENCH_COPIES"] = "1"
    source = make_files(folder / "in", pictures, 24)
    with cluster(1, folder) as client:
        settings: dict[str, Any] = {"final": FINAL, "options": SHORT}
        begin = time.perf_counter()
        for number, _ in enumerate(deblur_files(source, folder / "out", 5, client=client, device="cpu", **settings)):
            if number % (pictures // 10) == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                mib = pages * resource.getpagesize() / 2**20
                print(f"{number:6} outcomes: {mib:.0f} MiB, {time.perf_counter() - begin:.0f} s", flush=True)


def tiny(folder: Path, counts: Sequence[int]) -> None:
    """What a picture costs beside its computation, in a thread and through Dask: those of 24 x 24 are copied."""
    os.environ["BENCH_COPIES"] = "1"
    exec(PRELOAD, {})
    warm = make_files(folder / "warm", 20, 24)
    with cluster(1, folder) as client:
        in_processes(client, warm, folder / "warm_dask", 5, SHORT)
        for count in counts:
            source = make_files(folder / f"in{count}", count, 24)
            wall, cpu = in_threads(source, folder / f"threads{count}", 1, 5, SHORT)
            dask_wall, workers_cpu, driver_cpu = in_processes(client, source, folder / f"dask{count}", 5, SHORT)
            times = [1e3 * seconds / count for seconds in (wall, cpu, dask_wall, sum(workers_cpu), driver_cpu)]
            print("{:6} pictures, ms a picture: thread {:.2f} (CPU {:.2f}), ".format(count, *times[:2]), end="")
            print("Dask {:.2f} (CPU of the worker {:.2f}, of the driver {:.2f})".format(*times[2:]), flush=True)


DRIVER = """
import sys
from bench.distributed import FINAL, SHORT, cluster, deblur_files
from pathlib import Path

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with cluster(2, folder) as client:
        settings = {"client": client, "device": "cpu", "final": FINAL, "options": SHORT}
        for row in deblur_files(folder / "in", folder / "out", 5, **settings):
            print(row.status, row.source, row.error, flush=True)
"""


def kills(folder: Path, pictures: int, seconds: float, poison: int) -> bool:
    """Kill a worker now and then, and the driver with its scheduler once in the middle; what is wrong at the end."""
    source, out = make_files(folder / "in", pictures, 48), folder / "out"
    for i in range(poison):
        (source / f"poison{i}.png").write_bytes((source / "00000.png").read_bytes())
    script = folder / "driver.py"
    script.write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}"}
    killed, named, turn, is_resumed = 0, set[str](), 0, False
    while True:
        turn += 1
        with subprocess.Popen([sys.executable, str(script), str(folder)], env=environment, stdout=subprocess.PIPE,
                              text=True) as driver:  # fmt: skip
            assert driver.stdout is not None
            done, ended = 0, threading.Event()

            def kill_workers(ended: threading.Event = ended, parent: int = driver.pid) -> None:
                nonlocal killed
                while not ended.wait(seconds):
                    pids = worker_processes(parent)
                    if pids:
                        os.kill(pids[killed % len(pids)], signal.SIGKILL)
                        killed += 1

            thread = threading.Thread(target=kill_workers)
            for line in driver.stdout:
                if not thread.ident:  # a cluster whose processes are killed while it starts is none
                    thread.start()
                status = line.split()[0]
                done += status == "written"
                if status == "failed":
                    named.add(Path(line.split()[1]).name)
                if not is_resumed and done >= pictures // 2:
                    is_resumed = True
                    os.kill(driver.pid, signal.SIGKILL)
                    break
            ended.set()
            if thread.ident:
                thread.join()
        print(f"run {turn}: {done} written, {killed} workers killed so far, exit code {driver.returncode}", flush=True)
        if driver.returncode == 0:
            break
        assert turn < 5
    lines = [json.loads(line) for line in (out / JOURNAL_NAME).read_text().splitlines()]
    written = Counter(line["output"] for line in lines if line["status"] == "written")
    names = [path.name for path in source.glob("[0-9]*.png")]
    wrong = []
    for name in names:
        alone = gd.deblur(read_image(source / name).pixels, 5, final=FINAL, options=SHORT)
        if not (out / name).is_file() or not np.array_equal(read_image(out / name).pixels, alone.image):
            wrong.append(name)
    twice = [name for name in names if written[name] != 1]
    print(f"{len(names)} files, lost or different: {wrong}, not written once: {twice}, named: {sorted(named)}")
    return not wrong and not twice and named == {f"poison{i}.png" for i in range(poison)}


def worker_processes(parent: int) -> list[int]:
    """The processes of Dask's workers that a driver has started."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text, stat = (entry / "cmdline").read_bytes(), (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == parent and b"spawn_main" in text:
                pids.append(int(entry.name))
    return sorted(pids)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench distributed", description=__doc__)
    parser.add_argument("what", choices=("scaling", "overhead", "memory", "tiny", "kills"))
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--side", type=int, default=255)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--poison", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "scaling":
            scaling(folder, options.pictures or 64, options.side)
        elif options.what == "overhead":
            overhead(folder, options.pictures or 500)
        elif options.what == "memory":
            memory(folder, options.pictures or 20000)
        elif options.what == "tiny":
            tiny(folder, options.counts)
        else:
            sys.exit(not kills(folder, options.pictures or 500, options.seconds, options.poison))
