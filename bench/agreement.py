"""NumPy against CuPy on the same picture: how far their kernels are apart, step by step and at the end.

    python bench/agreement.py [--data DATA]

The first Levin picture under DATA, or, without it, scikit-image's camera under a trajectory kernel. Hard thresholds
turn a difference in the last bit into another edge sooner or later, so the kernels are compared after one and two
iterations of a single scale too. Then milliseconds a picture at batch 1 and 64, with one start and with all. Each row
is appended to results/agreement.jsonl as soon as it is measured. Needs a GPU.
"""

from __future__ import annotations

import timing  # before NumPy

# isort: split
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from .cases import levin_cases
from .evaluate import Row, arguments, device_name, recorded, show

import gpudeblur
from gpudeblur.alternation import start
from gpudeblur.synthesis import blur, trajectory_kernel

FAST = gpudeblur.TwoStepOptions(starts=("wide",))
BOUND = 1e-3  # of the kernel's maximum, before any threshold diverges
COLUMNS = {"run": "", "difference": ".2e"}
TIME_COLUMNS = {"run": "", "batch": "d", "ms": ".2f"}


def picture(data: Path | None) -> tuple[str, np.ndarray, tuple[int, int]]:
    """(name, blurred float32, kernel size)."""
    if data is not None and (data / "levin").is_dir():
        case = next(levin_cases(data))
        return case.name, case.blurred.astype(np.float32), case.kernel.shape
    from skimage.data import camera

    kernel = trajectory_kernel(25, rng=20)
    return "camera", blur(camera()[:279, :279] / 255, kernel).astype(np.float32), (25, 25)


def iterations(count: int, size: tuple[int, int], options: gpudeblur.TwoStepOptions) -> Callable[[Any], Any]:
    """The kernel of a picture after so many iterations of each scale of a start."""
    options = dataclasses.replace(options, iterations=count)
    return lambda picture: start(picture[None], size, options, lambda _: None)[0]


def measured(backend: timing.Cuda, blurred: np.ndarray, size: tuple[int, int]) -> Iterator[Row]:
    """Largest differences, of the kernel's maximum; then times."""
    on_device = backend.put(blurred)
    single = dataclasses.replace(FAST, smallest_kernel=max(size))  # a single scale
    runs: dict[str, Callable[[Any], Any]] = {
        "one iteration": iterations(1, size, single),
        "two iterations": iterations(2, size, single),
        "one start": functools.partial(gpudeblur.estimate_kernel, kernel_size=size, options=FAST),
        "default": functools.partial(gpudeblur.estimate_kernel, kernel_size=size),
    }
    for run, estimate in runs.items():
        host, device = estimate(blurred), backend.xp.asnumpy(estimate(on_device))
        yield {"run": run, "difference": float(abs(host - device).max() / host.max())}
    for run, options in (("one start", FAST), ("default", None)):
        for batch in (1, 64):
            stack = backend.xp.broadcast_to(on_device, (batch, *blurred.shape))
            work = functools.partial(gpudeblur.estimate_kernel, stack, size, options=options)
            seconds = backend.time(work, seconds=0.3).seconds
            yield {"run": run, "batch": batch, "ms": 1e3 * seconds / batch}


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, "data", "no-record", data={"required": False}).parse_args(argv)
    backend = timing.Cuda()
    name, blurred, size = picture(args.data)
    rows = measured(backend, blurred, size)
    if not args.no_record:
        rows = recorded("agreement", {"picture": name, "shape": list(blurred.shape), "gpu": device_name()}, rows)
    first = show(rows, COLUMNS, TIME_COLUMNS)[0]
    if first["difference"] > BOUND:
        raise SystemExit(f"NumPy and CuPy differ by {first['difference']:.2e} after one iteration, over {BOUND:g}")


if __name__ == "__main__":
    main()
