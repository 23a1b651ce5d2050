"""Blind image deblurring on NumPy and CuPy arrays: the sharp picture and its blur kernel."""

from . import priors
from .batch.iterator import BatchIterator, BatchResult, Progress, deblur_batch
from .blind.deblur import BlindResult, deblur, estimate_kernel
from .blind.options import TwoStepOptions
from .images.noise import estimate_noise
from .nonblind.deconvolve import deconvolve
from .numerics.progress import Stopped

__all__ = [
    "BatchIterator",
    "BatchResult",
    "BlindResult",
    "Progress",
    "Stopped",
    "TwoStepOptions",
    "deblur",
    "deblur_batch",
    "deconvolve",
    "estimate_kernel",
    "estimate_noise",
    "priors",
]
__version__ = "0.1.0"
