"""A pytest plugin (`-p bench.no_pool`): CuPy allots each array by itself, so a memory checker sees where each ends."""

from __future__ import annotations

import cupy

cupy.cuda.set_allocator(None)
