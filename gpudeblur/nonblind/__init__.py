"""Deconvolution with a known kernel: one method a function, f(blurred, kernel, *, ..., callback) on (..., H, W).

These functions check their arguments and take kernels of any sides and any positive sum, as `gpudeblur.deconvolve`
does. `METHODS` holds the same methods without the checks, for callers that have checked.
"""

from __future__ import annotations

from . import methods
from .checked import checked
from .methods.unsupervised_wiener import unsupervised_wiener as _unsupervised_wiener

METHODS = methods.METHODS
epll = checked(methods.epll)
hyper_laplacian = checked(methods.hyper_laplacian)
l0 = checked(methods.l0)
richardson_lucy = checked(methods.richardson_lucy)
ringing_suppressed = checked(methods.ringing_suppressed)
sparse = checked(methods.sparse)
tv = checked(methods.tv)
unsupervised_wiener = checked(_unsupervised_wiener)
wiener = checked(methods.wiener)

__all__ = [
    "epll",
    "hyper_laplacian",
    "l0",
    "richardson_lucy",
    "ringing_suppressed",
    "sparse",
    "tv",
    "unsupervised_wiener",
    "wiener",
]
