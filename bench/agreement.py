"""NumPy against CuPy on the same picture: how far their kernels are apart, step by step and at the end.

    python bench/agreement.py [--data DATA]

The first Levin picture under DATA, or, without it, scikit-image's camera under a trajectory kernel. Hard thresholds
turn a difference in the last bit into another edge sooner or later, so the kernels are compared after one and two
iterations of a single scale too. Appends seconds a picture at batch 1 and 64, with one start and with all, to
results/agreement.jsonl. Needs a GPU.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import levin_cases
from evaluate import arguments, device_name, record

import gpudeblur
from gpudeblur._arrays import require_cuda
from gpudeblur.alternation import start
from gpudeblur.synthesis import blur, trajectory_kernel

FAST = gpudeblur.TwoStepOptions(starts=("wide",))
BOUND = 1e-3  # of the kernel's maximum, before any threshold diverges


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


def main() -> None:
    args = arguments(__doc__, "data", "no-record", data={"required": False}).parse_args()
    cupy = require_cuda()
    from cupyx.profiler import benchmark

    name, blurred, size = picture(args.data)
    on_device = cupy.asarray(blurred)
    row: dict[str, object] = {"picture": name, "shape": list(blurred.shape), "gpu": device_name()}
    single = dataclasses.replace(FAST, smallest_kernel=max(size))  # a single scale
    for label, estimate in {
        "one iteration": iterations(1, size, single),
        "two iterations": iterations(2, size, single),
        "one start": functools.partial(gpudeblur.estimate_kernel, kernel_size=size, options=FAST),
        "default": functools.partial(gpudeblur.estimate_kernel, kernel_size=size),
    }.items():
        host, device = estimate(blurred), cupy.asnumpy(estimate(on_device))
        row[label] = float(abs(host - device).max() / host.max())
        print(f"{label}: largest difference {row[label]:.2e} of the kernel's maximum")
    for label, options in (("one_start", FAST), ("default", None)):
        for batch in (1, 64):
            stack = cupy.broadcast_to(on_device, (batch, *blurred.shape))
            work = functools.partial(gpudeblur.estimate_kernel, stack, size, options=options)
            times = benchmark(work, n_repeat=3, n_warmup=1).gpu_times
            seconds = row[f"seconds_{label}_batch_{batch}"] = float(np.median(times)) / batch
            print(f"{label}, batch {batch}: {1e3 * seconds:.2f} ms a picture")
    if not args.no_record:
        record("agreement", row)
    if row["one iteration"] > BOUND:
        raise SystemExit(f"NumPy and CuPy differ by {row['one iteration']:.2e} after one iteration, over {BOUND:g}")


if __name__ == "__main__":
    main()
