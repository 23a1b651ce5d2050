"""The peak memory of `deblur`, predicted from the shape of the image.

The unit is an array: real, of the pixels of a grid, or a spectrum of it, which takes as much. There are two grids, both
rounded up to fast sizes for the FFT: G, the image with a margin of the kernel's support at the finest scale, and R, the
image with a margin of the kernel size that was asked for. All along, the planes of the image are held, and their
luminance if there are channels; with a gamma, both as they are stored and in linear light. Beside them, the peak is the
larger of two:

    kernel estimation   the image divided by its noise, the kernels of all initializations, and ESTIMATION_ARRAYS of G:
                        the blurred image and its spectrum, the latent image, and the arrays of the latent step
    restoration         RESTORATION_ARRAYS of R for each channel, by method

Without a kernel size, that of the largest window counts, and two more copies of the image. A burst takes as much for
each of its images.

The numbers of arrays are measured, because the source does not show what each library frees early. On NumPy,
`tests/batch/test_memory.py` compares them with the measured peak. Those of CuPy were measured on an H200, where they
depend on the shape, from 15 of G at 96 x 112 to 20 at 255 x 255: some 17 where the kernels are scored, the work areas
of all cuFFT plans, and the blocks that fit no other scale. Not counted: tables, work space within an FFT on the CPU,
CUDA graphs (of small stacks only).
"""

from __future__ import annotations

import math

import numpy as np

from ..blind.kernel_size import size_entries, window_sides
from ..blind.options import TwoStepOptions
from ..blind.schedule import finest_runs, finest_scale
from ..images.checks import check_kernel_size
from ..nonblind.specs import METHOD_SPECS
from ..numerics.fourier import fast_size

# On NumPy 10.9 at the finest scale of several, 11.8 in an initialization that has one scale: the larger.
ESTIMATION_ARRAYS = {"numpy": 11.8, "cupy": 18.0}
# The boundary of "hyper-laplacian" is known in `deblur`.
RESTORATION_ARRAYS = {
    backend: {name: spec.live_arrays[backend] for name, spec in METHOD_SPECS.items() if spec.live_arrays}
    | {"hyper-laplacian": arrays}
    for backend, arrays in (("numpy", 7.4), ("cupy", 14.0))
}
# Of the grid of the autocorrelation, in the kernel step. They matter for small images.
SOLVER_ARRAYS = 2.7


def bytes_per_image(
    shape: tuple[int, int],
    kernel_size: int | tuple[int, int] | None,
    *,
    channels: int = 1,
    final: str | None = "sparse",
    gamma: float | str = 1.0,
    options: TwoStepOptions | None = None,
    backend: str = "numpy",
) -> int:
    """Bytes that `deblur` allocates for one image at its peak, without the image itself.

    Parameters
    ----------
    shape : (H, W) of the image.
    kernel_size, final, gamma, options : as in `deblur`.
    channels : number of channels.
    backend : {"numpy", "cupy"}

    Returns
    -------
    int
    """
    options = TwoStepOptions() if options is None else options
    size = (max(window_sides(shape)),) * 2 if kernel_size is None else check_kernel_size(kernel_size, shape)
    pixels, starts = math.prod(shape), len(options.starts)
    planes = pixels * (channels if channels == 1 else channels + 1)
    if gamma != 1:  # as they are stored, and in linear light
        planes *= 2
    support = finest_scale(shape, size, options).size
    lags = math.prod(fast_size(2 * side - 1) for side in support)
    peak = pixels + ESTIMATION_ARRAYS[backend] * _grid(shape, support) + SOLVER_ARRAYS * lags
    if starts > 1:
        peak += (starts + finest_runs(options) + 1) * math.prod(size)
    if kernel_size is None:
        # The kernels of all windows and what ranks them; the factor is measured.
        peak += 2 * pixels + 6 * len(size_entries(shape)) * math.prod(size)
    if final is not None:
        peak = max(peak, channels * RESTORATION_ARRAYS[backend][final] * _grid(shape, size))
    return int((planes + peak) * np.dtype(options.dtype).itemsize)


def _grid(shape: tuple[int, int], size: tuple[int, int]) -> int:
    """Pixels of the periodic grid for an image and a kernel."""
    return math.prod(fast_size(side + k - 1) for side, k in zip(shape, size, strict=True))
