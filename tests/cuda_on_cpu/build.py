"""Builds the CUDA kernels of kernels_cuda/ for the CPU and launches them the way a CuPy `RawKernel` is launched."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SANITIZE = bool(os.environ.get("GPUDEBLUR_TEST_SANITIZE"))
SHIM = Path(__file__).with_name("shim.h")
FLAGS = ("-std=c++20", "-g1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
SANITIZERS = ("-Og", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")

# A namespace a CUDA kernel, for constants of the same name; and another name, since POSIX has a `select`, too.
ENTRY = """#define {name} entry_{key}
namespace code_{key} {{ namespace {{
{source}
}} }}
#undef {name}
#line 1 "entry"
extern "C" const char* signature_{key}() {{ return shim::signature(code_{key}::entry_{key}); }}
extern "C" int launch_{key}(const unsigned* grid, const unsigned* block, size_t shared, unsigned order, void** args) {{
    const dim3 blocks{{grid[0], grid[1], grid[2]}}, threads{{block[0], block[1], block[2]}};
    return shim::launch(code_{key}::entry_{key}, blocks, threads, shared, order, args);
}}
"""


class CpuKernel:
    """`kernel(grid, block, args, shared_mem=0)` on NumPy arrays, as strict about argument types as the GPU is careless.

    `order` picks the order in which the threads of a block run between two barriers: 0 rising, 1 falling, else a
    shuffle by that seed.
    """

    order = 0
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, key: str, library: ctypes.CDLL) -> None:
        self.name, self._launch = key, library[f"launch_{key}"]
        signature = library[f"signature_{key}"]
        signature.restype = ctypes.c_char_p
        self.signature = signature().decode()

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int = 0
    ) -> None:
        assert 0 < int(np.prod(block)) <= 1024
        assert all(0 < size <= limit for size, limit in zip(grid, (2**31 - 1, 65535, 65535), strict=False))
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "the opt-in for large shared memory is missing"
        assert "".join(map(_letter, args)) == _without_null_sizes(self.signature, args), (self.signature, args)
        cells = [
            ctypes.c_void_p(value.ctypes.data if isinstance(value, np.ndarray) else None)
            if isinstance(value, np.ndarray | np.uintp)
            else np.ctypeslib.as_ctypes_type(value.dtype)(value.item())
            for value in args
        ]
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(cell) for cell in cells))
        failed = self._launch(_dim3(grid), _dim3(block), ctypes.c_size_t(shared_mem), self.order, pointers)
        assert not failed, f"{self.name}: a barrier is not reached by every thread of its block"


class PoisonedNumpy:
    """NumPy in the place of CuPy, but `empty` is never by chance what the last call has left there."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def empty_like(array: np.ndarray) -> np.ndarray:
        return PoisonedNumpy.empty(array.shape, array.dtype)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        out = np.empty(shape, dtype)
        out.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN as a float; neither True nor False as a bool
        return out


def _dim3(sides: tuple[int, ...]) -> Any:
    return (ctypes.c_uint * 3)(*sides, *(1,) * (3 - len(sides)))


def _letter(value: Any) -> str:
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return f"p{value.itemsize}"
    if isinstance(value, np.uintp):
        assert value == 0, "the only scalar address is null"
        return "p0"
    return {np.int32: "i", np.float32: "f", np.float64: "d"}[type(value)]


def _without_null_sizes(signature: str, args: tuple[Any, ...]) -> str:
    """`signature` with the size of what a null argument would point to set to 0."""
    letters = iter(signature)
    out = ""
    for value in args:
        letter = next(letters, "")
        size = next(letters, "") if letter == "p" else ""
        out += letter + ("0" if size and isinstance(value, np.uintp) else size)
    return out + "".join(letters)


def build_all(sources: Mapping[str, str], folder: Path, *, sanitize: bool = False) -> dict[str, CpuKernel]:
    """The CUDA kernels of `sources` (common.cuh and the .cu, as `_cuda.source` gives it) in one library in `folder`.

    The keys are names of entry points; what follows two underscores tells variants of one apart. A library of the very
    same text is built once, whichever process asks for it.
    """
    entries = [ENTRY.format(key=key, name=key.partition("__")[0], source=source) for key, source in sources.items()]
    text = "\n".join([f'#include "{SHIM.name}"', *entries])
    flags = [*FLAGS, *(SANITIZERS if sanitize else ("-O1",)), f"-I{SHIM.parent}"]
    digest = hashlib.sha256("\n".join([*flags, SHIM.read_text(), text]).encode()).hexdigest()[:16]
    library = folder / f"{digest}.so"
    with open(folder / f"{digest}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not library.exists():
            unfinished = library.with_suffix(".unfinished")
            command = ["g++", *flags, "-x", "c++", "-", "-o", str(unfinished)]
            done = subprocess.run(command, input=text, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            unfinished.replace(library)
    loaded = ctypes.CDLL(str(library))
    return {key: CpuKernel(key, loaded) for key in sources}


def build(name: str, source: str, folder: Path) -> CpuKernel:
    return build_all({name: source}, folder)[name]


def sanitized_environment() -> dict[str, str]:
    """What a Python process needs to load a library built with `sanitize=True`, and to know that it shall."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    return {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "GPUDEBLUR_TEST_SANITIZE": "1",
    }
