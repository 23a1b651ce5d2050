"""The least that a call asks of a GPU: its launches and transforms, and the bytes that these must move.

    python -m bench.roofline [--side 255] [--kernel 25] [--options JSON] [--bandwidth 4.3] [--rate 50]

`recorded` notes each launch of a call while it runs: on a GPU, or on the stand-in for CuPy of the tests, which the
command takes. Every array that a launch takes is read once, every array that it gives is written once, but for tables
that all pictures share. A 2-D transform of cuFFT passes over memory twice, once for the rows and once, in place, for
the columns. The floor is the time that these bytes take at the bandwidth of a copy, or the arithmetic at the rate of a
matrix product where that is more. A latent pass moves 54 bytes a pixel: stencil 8, R2C 16, quotient 14, C2R 16.
Expressions that are no launch of ours are left out, and arrays that stay in the GPU's cache can be faster than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import gpudeblur

from .cases import blurred_camera
from .evaluate import arguments
from .host_share import stand_in

# By the place of an argument: what is read and written, and tables that all pictures share.
IN_PLACE = {"spectral_solve": (1,), "data_terms": (0,), "normal_spectra": (0, 1)}
TABLES = {"spectral_solve": (5, 6), "resample": (1, 2), "gaussian_smooth": (1,)}


class Launch(NamedTuple):
    name: str
    bytes: int
    operations: int = 0


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """The launches of this context, in order; without CUDA graphs, which would hide theirs."""
    from gpudeblur.numerics import cuda, cuda_graphs, device

    launches: list[Launch] = []
    launch = cuda._launch

    def watched(name: str, blocks: int, block: Any, *args: Any, **keywords: Any) -> None:
        launches.append(Launch(name, moved(name, args), operations(name, args)))
        launch(name, blocks, block, *args, **keywords)

    def transform(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, sides: tuple[int, ...], out: Any) -> Any:
            result = original(x, sides, out)
            picture, spectrum = (x, result) if name == "cufft_r2c" else (result, x)
            launches.append(Launch(name, picture.nbytes + (1 if len(sides) == 1 else 3) * spectrum.nbytes))
            return result

        return call

    with ExitStack() as stack:
        stack.enter_context(patch.object(cuda, "_launch", watched))
        stack.enter_context(patch.object(device, "_forward", transform("cufft_r2c", device._forward)))
        stack.enter_context(patch.object(device, "_inverse", transform("cufft_c2r", device._inverse)))
        stack.enter_context(patch.object(cuda_graphs, "GRAPH_PIXELS", 0))
        yield launches


def moved(name: str, args: Sequence[Any]) -> int:
    """Bytes that a launch must read and write, by its arguments."""
    import cupy

    if name == "central_lags":  # as many numbers of the correlation as there are lags
        return 2 * args[1].nbytes
    if name == "selection_threshold":  # of the picture the window
        latent, out = args[:2]
        top, bottom, left, right = map(int, args[4:8])
        return 4 * math.prod(latent.shape[:-2]) * (bottom - top) * (right - left) + out.nbytes
    if name in ("cells_cut", "cells_add"):  # as many pixels of the picture as the blocks have, as margins are few
        return 2 * args[0 if name == "cells_add" else 5].nbytes
    arrays = [a for i, a in enumerate(args) if isinstance(a, cupy.ndarray) and i not in TABLES.get(name, ())]
    arrays += [args[i] for i in IN_PLACE.get(name, ())]
    if name == "dt_smooth":
        arrays += [args[4]] * int(args[3])  # added to, where there is a scale
    return sum(array.nbytes for array in arrays)


def operations(name: str, args: Sequence[Any]) -> int:
    """Of the products with the Toeplitz matrix, which the CUDA kernels form directly."""
    if not name.startswith("toeplitz_"):
        return 0
    steps, rhs = int(args[-2]), args[1]
    return 2 * steps * rhs.size * math.prod(rhs.shape[-2:])


def transforms(launches: Sequence[Launch]) -> int:
    return sum(launch.name in ("cufft_r2c", "cufft_c2r") for launch in launches)


def floor_seconds(launches: Sequence[Launch], bandwidth: float, rate: float) -> float:
    """At so many bytes a second of a copy and so many operations a second of a matrix product."""
    return sum(max(launch.bytes / bandwidth, launch.operations / rate) for launch in launches)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "side", "kernel", "options")
    parser.add_argument("--bandwidth", type=float, default=4.3, help="TB/s of a copy")
    parser.add_argument("--rate", type=float, default=50.0, help="TFLOP/s of a float32 matrix product")
    args = parser.parse_args(argv)
    with stand_in() as (cupy, _):
        image = cupy.asarray(blurred_camera((args.side, args.side), args.kernel))
        with recorded() as launches:
            gpudeblur.estimate_kernel(image, args.kernel, options=gpudeblur.TwoStepOptions(**args.options))
    gigabytes = sum(launch.bytes for launch in launches) / 1e9
    milliseconds = 1e3 * floor_seconds(launches, 1e12 * args.bandwidth, 1e12 * args.rate)
    print(f"{transforms(launches)} transforms, {len(launches)} launches, {gigabytes:.2f} GB, {milliseconds:.3f} ms")


if __name__ == "__main__":
    main()
