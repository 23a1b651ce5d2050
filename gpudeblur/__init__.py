"""Blind image deblurring on NumPy and CuPy arrays: the sharp picture and its blur kernel."""

from .blind import BlindResult, Stopped, deblur, deconvolve, estimate_kernel
from .options import TwoStepOptions

__all__ = ["BlindResult", "Stopped", "TwoStepOptions", "deblur", "deconvolve", "estimate_kernel"]
__version__ = "0.1.0"
