"""Benches of gpudeblur: python -m bench COMMAND [options]; COMMAND --help says more.

quality         kernels and pictures of blind deblurring: eight sets, photographs, a phone's pictures
rotation        blur="rotation" on photographs of a rotating camera, and on uniformly blurred ones
deconvolution   every method with a known kernel, three noises, scikit-image
speed           pytest-benchmark's benchmarks, bench/speed
networks        those that restore faces; the classifier behind the learned prior
identity        whether a face is still recognized, by dlib's network: what a blur takes away
fit             the constants of gpudeblur's confidence and strength
random_calls    odd calls of the public functions: no hang, no error in the words of other libraries
figures         contact sheets of real photographs
fuzz            mutated image files: each is read, or refused by an error that names it
kills           gpudeblur batch killed at random moments and run again
memory          resident memory over 10,000 pictures, one in twenty of them bad
distributed     files through Dask: processes beside threads, cost a picture, memory of the driver, workers killed
deepinv         Richardson-Lucy and blind kernels beside deepinv, if that is installed
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = (
    "quality", "rotation", "deconvolution", "speed", "networks", "identity", "fit", "figures", "fuzz", "random_calls",
    "kills", "memory", "distributed", "deepinv",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    command, *options = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in COMMANDS:
        importlib.import_module(f"bench.{command}").main(options)
    elif command in ("-h", "--help"):
        print(__doc__)
    else:
        sys.exit(f"no bench {command!r}; there are {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
