"""Blind image deblurring on NumPy and CuPy arrays: the sharp image and its blur kernel.

The rooms of the package, from the top; each imports only from those below it (docs/architecture.md):

    batch      many images: iterator, CPU and GPU executors, folders, reports
    blind      unknown kernel: the two-step method. Read `blind/deblur.py` first
    nonblind   known kernel: deconvolution, one method a file
    priors     priors on the latent image
    networks   everything that needs PyTorch
    images     images as data: checks, files, planes, noise, saturation
    numerics   arrays, transforms, CUDA launches

and the doors: this module, `cli` (the command line), `restoration` (for users of scikit-image), `metrics` and
`synthesis`.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from . import metrics, nonblind, priors, restoration, synthesis
    from .batch.iterator import BatchIterator, BatchResult, Progress, deblur_batch
    from .blind.deblur import BlindResult, deblur, estimate_kernel
    from .blind.info import Info
    from .blind.options import TwoStepOptions
    from .blind.restore import RestoreResult, restore
    from .blind.streaks import streak_kernel
    from .images.files import read_image, read_kernel, write_image, write_kernel
    from .images.kernel_field import KernelField, show_kernels
    from .images.noise import estimate_noise
    from .nonblind.deconvolve import deconvolve
    from .numerics.progress import Stopped, progress_bar

__all__ = [
    "BatchIterator",
    "BatchResult",
    "BlindResult",
    "Info",
    "KernelField",
    "Progress",
    "RestoreResult",
    "Stopped",
    "TwoStepOptions",
    "deblur",
    "deblur_batch",
    "deconvolve",
    "estimate_kernel",
    "estimate_noise",
    "metrics",
    "nonblind",
    "priors",
    "progress_bar",
    "read_image",
    "read_kernel",
    "restoration",
    "restore",
    "show_kernels",
    "streak_kernel",
    "synthesis",
    "write_image",
    "write_kernel",
]
__version__ = "0.1.0"

# The public names, by the module that is imported when one of them is first used.
_MODULES = ("dask", "distributed", "metrics", "nonblind", "priors", "restoration", "synthesis")  # two need `dask`
_MODULE_OF = {
    name: module
    for module, names in {
        "batch.iterator": ("BatchIterator", "BatchResult", "Progress", "deblur_batch"),
        "blind.deblur": ("BlindResult", "deblur", "estimate_kernel"),
        "blind.info": ("Info",),
        "blind.options": ("TwoStepOptions",),
        "blind.restore": ("RestoreResult", "restore"),
        "blind.streaks": ("streak_kernel",),
        "images.files": ("read_image", "read_kernel", "write_image", "write_kernel"),
        "images.kernel_field": ("KernelField", "show_kernels"),
        "images.noise": ("estimate_noise",),
        "nonblind.deconvolve": ("deconvolve",),
        "numerics.progress": ("Stopped", "progress_bar"),
    }.items()
    for name in names
}


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _import_module(f".{name}", __name__)
    if name in _MODULE_OF:
        value = getattr(_import_module(f".{_MODULE_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
