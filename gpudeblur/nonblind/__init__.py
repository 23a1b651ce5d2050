"""Deconvolution with a known blur kernel: `sharp = method(blurred, kernel)`.

Each function checks its arguments, accepts kernels of any size and any positive sum, and returns an array like
`blurred`. `gpudeblur.deconvolve` offers the same methods with channels, integers, gamma, tiles and saturation levels.

Parameters common to all methods
--------------------------------
blurred : (..., H, W) float32 or float64
    The blurred image, or a stack of them. Methods with an automatic weight expect values in [0, 1].
kernel : (kh, kw), or one per image, (..., kh, kw)
    The blur kernel, ``blurred = conv(sharp, kernel)``. It is scaled to sum 1. Its origin is pixel (kh // 2, kw // 2).
    What seems to be measured with a floor, or to have its origin at [0, 0], is warned of; `gpudeblur.deconvolve` has
    ``floor=``. `sparse`, `pnp` and `richardson_lucy` also take a `gpudeblur.KernelField`, a blur that varies over the
    image.
weight : float or one per image, (...), optional
    Weight of the prior. Larger: less noise and ringing, less detail. None derives it from the noise of the image, see
    `gpudeblur.nonblind.regularization`.
noise_sigma : float or one per image, (...), optional
    Standard deviation of the noise in the unit of `blurred`. None estimates it.
boundary : str
    What is assumed outside the image, see `gpudeblur.numerics.boundary.pad`. "unknown" assumes nothing: the restored
    image extends beyond the borders, and only observed pixels are compared.
saturated : (..., H, W) bool, optional
    Where the sensor was saturated: there x * k may exceed `blurred`. For the boundary "unknown" only.
mask : (H, W) or (..., H, W) bool, or "nan", optional
    True where `blurred` is valid; its other pixels, which may be NaN, are not compared, and the result there comes from
    their neighbors and the prior. "nan": where it is finite. For the boundary "unknown" only. `blurred` may also be a
    `numpy.ma.MaskedArray`; the result is one then, with the same mask.
callback : function, optional
    Called with the completed fraction after each pass. Returning True stops the run by `gpudeblur.Stopped`.

The result (..., H, W) is not limited to [0, 1]. Papers are cited as [Author year], listed in docs/method.md.

How to add a method
-------------------
1. Write its function in one file of `methods/`, f(blurred, kernel, *, ..., callback), without checks of arguments.
2. Give it one row of the table `METHOD_SPECS` in `specs.py`. `deconvolve`, the checks, tiles and `deblur(final=)` read
   this table and nothing else.

To offer it as a function of this module too, add its name below.
"""

from __future__ import annotations

from . import specs
from .checked import checked
from .specs import METHODS as METHODS

epll = checked(specs.epll)
hyper_laplacian = checked(specs.hyper_laplacian)
l0 = checked(specs.l0)
pnp = checked(specs.pnp)
richardson_lucy = checked(specs.richardson_lucy)
ringing_suppressed = checked(specs.ringing_suppressed)
sparse = checked(specs.sparse)
tv = checked(specs.tv)
unsupervised_wiener = checked(specs.unsupervised_wiener)
wiener = checked(specs.wiener)

__all__ = [
    "epll",
    "hyper_laplacian",
    "l0",
    "pnp",
    "richardson_lucy",
    "ringing_suppressed",
    "sparse",
    "tv",
    "unsupervised_wiener",
    "wiener",
]
