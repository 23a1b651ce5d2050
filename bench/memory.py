"""Resident memory while many small files are deblurred, one in twenty of them bad, and the time of deciding again.

python -m bench memory [--pictures 10000] [--seed 0]

Every twentieth file is truncated, empty, of NaN, or a picture whose output cannot be written. The files go through the
functions behind `gpudeblur batch`, with the fastest options. Linux.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

import gpudeblur as gd
from gpudeblur.batch.folders import deblur_files, decide, plan
from gpudeblur.batch.journal import Journal, fingerprint
from gpudeblur.images.files import write_image

OPTIONS = gd.TwoStepOptions(starts=("wide",), iterations=1, finest_iterations=1, kernel_iterations=2, refine=False)
BAD_EVERY = 20


@dataclass
class Memory:
    """Of one run over all pictures, and of deciding once more."""

    megabytes: list[float] = field(default_factory=list)  # resident, at each tenth of the run
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    seconds_to_decide: float = 0.0  # CPU time of the plan, the journal and the decisions of the next run
    statuses_again: Counter[str] = field(default_factory=Counter)


def resident_megabytes() -> float:
    gc.collect()
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def make_pictures(folder: Path, out: Path, count: int, seed: int) -> None:
    """Gray and color pictures of five sizes; each `BAD_EVERY`-th one is bad in one of four ways."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        path = folder / f"{number:06}.png"
        shape = (36 + 2 * (number % 5), 40) + ((3,) if number % 10 == 3 else ())
        write_image(path, rng.integers(0, 256, shape, dtype=np.uint8))
        if number % BAD_EVERY == 7:
            kind = number // BAD_EVERY % 4
            if kind == 0:
                path.write_bytes(path.read_bytes()[:200])
            elif kind == 1:
                path.write_bytes(b"")
            elif kind == 2:
                path.unlink()
                tifffile.imwrite(path.with_suffix(".tif"), np.full(shape[:2], np.nan, np.float32))
            else:
                (out / path.name).mkdir(parents=True)


def run(source: Path, out: Path) -> Iterator[str]:
    """The statuses of a run of all pictures, as they come."""
    tasks = plan([source], out, kernels=out / "kernels").tasks
    options_hash = fingerprint(gd.__version__, {"kernel_size": 5})
    with Journal(out, [out / "kernels"]) as journal:
        decisions = decide(tasks, journal, options_hash)
        arguments: dict[str, Any] = {"final": "hyper-laplacian", "options": OPTIONS, "defects": None, "workers": 1}
        run_fields = {"fingerprint": options_hash, "version": gd.__version__}
        for outcome in deblur_files(decisions, journal, run_fields, 5, **arguments):
            yield outcome.status


def measure(folder: Path, count: int, seed: int = 0) -> Memory:
    """Deblur `count` pictures in `folder`, then decide over them again."""
    source, out, memory = folder / "in", folder / "out", Memory()
    source.mkdir()
    make_pictures(source, out, count, seed)
    begin = time.perf_counter()
    for number, status in enumerate(run(source, out), 1):
        memory.statuses[status] += 1
        if number % max(1, count // 10) == 0:
            memory.megabytes.append(resident_megabytes())
            print(f"{number} of {count}: {memory.megabytes[-1]:.1f} MiB", flush=True)
    memory.seconds = time.perf_counter() - begin
    began = time.process_time()
    tasks = plan([source], out, kernels=out / "kernels").tasks
    decisions = decide(tasks, Journal(out), fingerprint(gd.__version__, {"kernel_size": 5}))
    memory.seconds_to_decide = time.process_time() - began
    memory.statuses_again.update(decision.outcome.status for decision in decisions)
    return memory


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench memory", description=__doc__)
    parser.add_argument("--pictures", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        memory = measure(Path(folder), options.pictures, options.seed)
    print(f"{dict(memory.statuses)} in {memory.seconds:.0f} s")
    # The first tenth has the caches of FFT plans and the allocator's own still to fill.
    growth = memory.megabytes[-1] - memory.megabytes[0]
    print(f"resident: {memory.megabytes[0]:.1f} to {memory.megabytes[-1]:.1f} MiB, growth {growth:+.1f} MiB")
    print(f"deciding again: {memory.seconds_to_decide:.2f} s of CPU time, {dict(memory.statuses_again)}")
    sys.exit(growth > 4)
