"""What the host has to do for one picture on a GPU, counted without one: CuPy calls, launches, uploads and waits.

    python -m bench.host_share [--side 255] [--kernel 25]

Calls `deblur` with the defaults on the strict stand-in for CuPy that the tests use (`tests/cuda_on_cpu`: NumPy arrays,
CUDA kernels through a C++ shim), and prints what each call asked for. The first call compiles and plans, the second
captures CUDA graphs, the third launches them. A launch within a graph is none of the host's. Takes some minutes at the
default size; the counts hardly depend on it. Needs g++ and the package CuPy, no GPU.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpudeblur

from .cases import blurred_camera
from .evaluate import arguments

TESTS = Path(__file__).resolve().parent.parent / "tests"
COLUMNS = ("calls", "launches", "graph launches", "uploads", "waits", "plans", "capture allocations", "capture plans")


@contextmanager
def stand_in() -> Iterator[tuple[Any, Any]]:
    """(CuPy, the module that counts), with the CUDA kernels built in a temporary folder."""
    sys.path.insert(0, str(TESTS))
    from cuda_on_cpu import device
    from cuda_on_cpu.build import build

    with tempfile.TemporaryDirectory() as folder:

        @functools.cache
        def kernel(name: str) -> Any:
            from gpudeblur.numerics import cuda

            return build(name, cuda.source(name), Path(folder))

        with device.installed(kernel) as cupy:
            yield cupy, device


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, "side", "kernel").parse_args(argv)
    print("call", *COLUMNS, sep=" | ")
    with stand_in() as (cupy, device):
        image = cupy.asarray(blurred_camera((args.side, args.side), args.kernel))
        for number in (1, 2, 3):
            device.counts.clear()
            gpudeblur.deblur(image, args.kernel)
            print(number, *(device.counts[name] for name in COLUMNS), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
