"""The allocator of glibc as NumPy needs it, in the workers of Dask."""

from __future__ import annotations

import ctypes
import functools
import os

# Of Dask's nannies, for all workers. Every array above 128 KiB is then mapped and unmapped by the kernel, page by page:
# `deblur` of 255 x 255 pixels took twice the CPU time.
_NANNY_THRESHOLD = "65536"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt


@functools.cache
def keep_freed_memory() -> None:
    """Give freed memory back to the system as late as glibc does by itself at most, not as early as Dask wants it.

    Does nothing where MALLOC_TRIM_THRESHOLD_ is not that of Dask, or without glibc.
    """
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") != _NANNY_THRESHOLD:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    mallopt(_MMAP_THRESHOLD, 1 << 25)
    mallopt(_TRIM_THRESHOLD, 1 << 26)
