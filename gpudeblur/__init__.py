"""Blind image deblurring on NumPy and CuPy arrays: the sharp picture and its blur kernel."""

from .batch import BatchIterator, BatchResult, Progress, deblur_batch
from .blind import BlindResult, Stopped, deblur, deconvolve, estimate_kernel
from .estimate import estimate_noise
from .options import TwoStepOptions

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
]
__version__ = "0.1.0"
