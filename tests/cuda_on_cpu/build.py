"""Builds a CUDA kernel of kernels_cuda/ for the CPU and launches it the way a CuPy `RawKernel` is launched."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

SANITIZE = bool(os.environ.get("GPUDEBLUR_TEST_SANITIZE"))
SHIM = Path(__file__).with_name("shim.h")
FLAGS = ("-std=c++20", "-O1", "-g1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")

ENTRY = """
extern "C" const char* signature() {{ return shim::signature({name}); }}
extern "C" int launch(const unsigned* grid, const unsigned* block, size_t shared, unsigned order, void** arguments) {{
    const dim3 blocks{{grid[0], grid[1], grid[2]}}, threads{{block[0], block[1], block[2]}};
    return shim::launch({name}, blocks, threads, shared, order, arguments);
}}
"""


class CpuKernel:
    """`kernel(grid, block, args, shared_mem=0)` on NumPy arrays, as strict about argument types as the GPU is careless.

    `order` picks the order in which the threads of a block run between two barriers: 0 rising, 1 falling, else a
    shuffle by that seed.
    """

    order = 0
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, name: str, library: Path) -> None:
        self.name = name
        self._library = ctypes.CDLL(str(library))
        self._library.signature.restype = ctypes.c_char_p
        self.signature = self._library.signature().decode()

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
        failed = self._library.launch(_dim3(grid), _dim3(block), ctypes.c_size_t(shared_mem), self.order, pointers)
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


def build(name: str, source: str, folder: Path, *, sanitize: bool = False) -> CpuKernel:
    """The kernel `name` of `source` (common.cuh and the .cu, as `_cuda.source` gives it), built in `folder`.

    Where another process has built the very same there, that is it.
    """
    renamed = f"#define {name} cuda_{name}"  # POSIX has a select, too
    text = f'#include "{SHIM.name}"\n{renamed}\n{source}\n#line 1 "entry"\n{ENTRY.format(name=name)}'
    flags = [*FLAGS, *(SANITIZERS if sanitize else ()), f"-I{SHIM.parent}"]
    digest = hashlib.sha256("\n".join([*flags, SHIM.read_text(), text]).encode()).hexdigest()[:16]
    library = folder / f"{name}-{digest}.so"
    if not library.exists():
        unfinished = folder / f"{name}-{digest}-{os.getpid()}.so"
        command = ["g++", *flags, "-x", "c++", "-", "-o", str(unfinished)]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        unfinished.replace(library)
    return CpuKernel(name, library)


def sanitized_environment() -> dict[str, str]:
    """What a Python process needs to load a library built with `sanitize=True`, and to know that it shall."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    return {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "GPUDEBLUR_TEST_SANITIZE": "1",
    }
