"""How much memory a picture takes while it is deblurred, worked out from its shape.

In planes: real arrays of the size of a grid, or spectra of it, which weigh as much. Two grids count. That of the
kernel's estimation has G pixels, the picture with a margin of the kernel's support at the finest scale, rounded up to
fast sizes; that of the restoration R, with a margin of the kernel that was asked for. The peak is at one of these
places, and the picture's own planes (C channels, and their luminance if C > 1) are there all along:

    starts       planes + quiet + SMOOTH S   S: the largest grid of a start, about G / 2 where there are several scales;
                                             as below, and the smooth picture and its split
    finest scale planes + quiet + ALTERNATION G   the blurred picture and its spectrum, the last latent picture, and
                                             within the latent step: the data, the power and the quotient's spectrum,
                                             both gradients with their mask, the split; judging a kernel takes as much
    restoration  planes + C RESTORATION R    per channel; "sparse": x, residual, direction and image of the conjugate
                                             gradients, its preconditioner, five derivatives, five weights,
                                             room and spectra; "hyper-laplacian": the blurred and the last picture,
                                             data, power, the quotient's spectrum, two gradients, split;
                                             "tv" and those that take it for the unknown boundary: both multipliers,
                                             both shrunk gradients, the transfer function and what is predicted, too

`quiet` is the picture with its noise taken into account; beside it, the kernels of all starts are held, and of all that
came of them. Where no kernel size is given, that of the largest window counts, and two more copies of the picture.

The counts of arrays that live at once are measured, as what each library frees in time is not in the source:
`tests/test_memory.py` holds them against the peak. Those of CuPy are counted without a GPU so far, on the safe side:
some 17 planes where a kernel is judged, 5 to 9 for the work areas of the cuFFT plans of all starts, and room for blocks
of memory that fit no other scale. What is left out is small or not the picture's: tables, work space within an FFT on
the CPU, CUDA graphs (of small stacks only).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..blind.kernel_size import window_sides
from ..blind.options import TwoStepOptions
from ..blind.schedule import finest_runs, finest_scale, schedule
from ..images.checks import check_kernel_size
from ..nonblind.tiles import LIVE_ARRAYS
from ..numerics.fourier import fast_size

ALTERNATION = {"numpy": 10.9, "cupy": 30.0}
SMOOTH = {"numpy": 11.8, "cupy": 30.0}
# "hyper-laplacian" as `deblur` calls it knows its boundary.
RESTORATION = {
    "numpy": {**LIVE_ARRAYS["numpy"], "hyper-laplacian": 7.4},
    "cupy": {**LIVE_ARRAYS["cupy"], "hyper-laplacian": 14.0},
}
# Arrays of the size of the autocorrelation on its grid, in the solvers; they count where the picture is small.
SOLVER = 2.7


def bytes_per_image(
    shape: tuple[int, int],
    kernel_size: int | tuple[int, int] | None,
    *,
    channels: int = 1,
    final: str | None = "sparse",
    options: TwoStepOptions | None = None,
    backend: str = "numpy",
) -> int:
    """Bytes that `deblur` allots for one picture at its peak, the picture itself not counted.

    Parameters
    ----------
    shape : (H, W) of the picture.
    kernel_size, final, options : as in `deblur`.
    channels : how many colours.
    backend : {"numpy", "cupy"}

    Returns
    -------
    int
    """
    options = TwoStepOptions() if options is None else options
    size = (max(window_sides(shape)),) * 2 if kernel_size is None else check_kernel_size(kernel_size, shape)
    pixels = _pixels(shape)
    planes = pixels * (channels if channels == 1 else channels + 1)
    support = finest_scale(shape, size, options).size
    lags = _pixels(tuple(fast_size(2 * side - 1) for side in support))
    peak = max(
        ALTERNATION[backend] * _grid(shape, support) + SOLVER * lags,
        SMOOTH[backend] * max(_start_grid(shape, size, options.of_start(name)) for name in options.starts),
    )
    kernels = len(options.starts) + finest_runs(options) + 1
    peak += pixels + _pixels(size) * kernels * (len(options.starts) > 1)
    if kernel_size is None:
        peak += 2 * pixels
    if final is not None:
        peak = max(peak, channels * RESTORATION[backend][final] * _grid(shape, size))
    return int((planes + peak) * np.dtype(options.dtype).itemsize)


def _start_grid(shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions) -> int:
    """Pixels of the largest grid of a start."""
    *coarse, finest = schedule(shape, size, options)
    return max(_grid(scale.shape, scale.size) for scale in coarse or [finest])


def _grid(shape: tuple[int, int], size: tuple[int, int]) -> int:
    """Pixels of the periodic grid for a picture and a kernel."""
    return _pixels(tuple(fast_size(side + k - 1) for side, k in zip(shape, size, strict=True)))


def _pixels(shape: Any) -> int:
    return int(shape[0]) * int(shape[1])
