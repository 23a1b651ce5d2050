"""Rung 2: NVRTC compiles every CUDA kernel for every architecture we name, without a device or a driver.

No spills and no stack, whatever the NVRTC. Registers and shared memory are those of `cuda_resources.json` under the
NVRTC that the table names, and elsewhere such that the largest block fits. After a deliberate change:

    python -m tests.test_cuda_compiles
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cupy", reason="the CUDA sources are read and compiled through CuPy")
nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="needs the NVRTC library (nvidia-cuda-nvrtc)")

from gpudeblur.numerics import cuda  # noqa: E402

ARCHITECTURES = ("75", "80", "90", "100", "120")
NAMES = sorted(path.stem for path in cuda.SOURCES.glob("*.cu"))
TABLE = Path(__file__).with_name("cuda_resources.json")
OPTIONS = (*cuda.OPTIONS, "-ftz=true", "--ptxas-options=-v")  # -ftz: CuPy adds it


def compile_source(source: str, architecture: str) -> str:
    """The compiler's log, ptxas's figures included; the public `cuda.core.Program` would need cuda-bindings, too."""
    program = nvrtc.createProgram(source, "source.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*OPTIONS, f"-arch=sm_{architecture}"))
        return nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        raise ValueError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


@functools.cache
def resources(name: str, architecture: str) -> dict[str, int]:
    """Registers a thread, static shared memory, stack frame and spills (bytes) of an entry point."""
    log = compile_source(cuda.source(name), architecture)
    patterns = {
        "registers": r"Used (\d+) registers",
        "shared": r"(\d+) bytes smem",
        "stack": r"(\d+) bytes stack frame",
        "spill_stores": r"(\d+) bytes spill stores",
        "spill_loads": r"(\d+) bytes spill loads",
    }
    found = {key: re.search(pattern, log) for key, pattern in patterns.items()}
    assert "warning" not in log, log  # NVRTC has no option that makes errors of them
    assert found["registers"], log
    assert found["stack"], log
    return {key: int(match[1]) if match else 0 for key, match in found.items()}


@functools.cache
def table() -> dict[str, Any]:
    return json.loads(TABLE.read_text())


def block_size(name: str) -> int:
    """The threads of a block for which an entry point is compiled."""
    source = cuda.source(name)
    constants = dict(re.findall(r"constexpr int (\w+) = (\d+);", source))
    bound = re.search(r"__launch_bounds__\(([\w *]+)", source)
    assert bound
    return math.prod(int(constants.get(factor, factor)) for factor in bound[1].split(" * "))


def version() -> str:
    return ".".join(map(str, nvrtc.getVersion()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_spills(name: str, architecture: str) -> None:
    now = resources(name, architecture)
    assert now["stack"] == now["spill_stores"] == now["spill_loads"] == 0
    registers_per_warp = 256 * -(-32 * now["registers"] // 256)
    assert registers_per_warp * block_size(name) // 32 <= 65536
    if version() == table()["nvrtc"]:
        assert now == table()["kernels"][name][f"sm_{architecture}"], "another figure; see the top of this file"


def test_the_table_names_the_kernels_there_are() -> None:
    assert sorted(table()["kernels"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_file_states_its_contract(name: str) -> None:
    lines = (cuda.SOURCES / f"{name}.cu").read_text().splitlines()
    comment = " ".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("//"))])
    assert comment.startswith(f"// {name}: ")
    for word in ("uint8" if name == "dilate" else "float32|complex64", "C order", "grid", "block", "twin: "):
        assert re.search(word, comment, re.IGNORECASE)
    assert max(map(len, lines)) <= 120


def test_static_shared_memory_matches_the_launch_functions() -> None:
    """`toeplitz_fits`, `project` and the opt-in for more than 48 KB count static shared memory by hand."""
    assert resources("toeplitz_cg", "90")["shared"] == cuda._BLOCK_SUM_BYTES
    assert resources("project", "90")["shared"] <= cuda._PROJECT_STATIC_BYTES
    for name in ("dilate", "project", "toeplitz_cg", "toeplitz_nnls"):  # those with a dynamic part
        assert resources(name, "90")["shared"] + cuda._SHARED_BY_DEFAULT <= 48 << 10


def test_constants_of_the_selection_match_the_launch_functions() -> None:
    equal = f"DIGITS == {cuda._DIGITS} && SELECTION_WORDS == {cuda._SELECTION_WORDS}"
    compile_source(f"{cuda.source('select')}\nstatic_assert({equal});\n", "90")


def test_an_error_names_the_file_and_line() -> None:
    header, line, body = cuda.source("dt_l0").partition('#line 1 "dt_l0.cu"')
    with pytest.raises(ValueError, match=r'dt_l0\.cu\(\d+\): error: identifier "no_such_thing" is undefined'):
        compile_source(header + line + body.replace("__syncthreads()", "no_such_thing()"), "90")


def test_a_warning_would_be_seen() -> None:
    assert "warning" in compile_source('extern "C" __global__ void f() { int unused; }', "90")


def test_a_spill_would_be_seen() -> None:
    """The figures are read off a log; here is one with a stack frame, so that its absence means something."""
    source = """extern "C" __global__ void f(float* x, int i) {
        float local[64];
        for (int j = 0; j < 64; ++j) local[j] = x[j];
        local[i] = 0;
        for (int j = 0; j < 64; ++j) x[j] = local[(j * i) & 63];
    }"""
    assert int(re.search(r"(\d+) bytes stack frame", compile_source(source, "90"))[1]) > 0  # type: ignore[index]


def write_table() -> None:
    kernels = {n: {f"sm_{a}": resources(n, a) for a in ARCHITECTURES} for n in NAMES}
    content = {"command": "python -m tests.test_cuda_compiles", "nvrtc": version(), "kernels": kernels}
    rows = json.dumps(content, indent=1)
    TABLE.write_text(re.sub(r"\n {4,}| *\n   (?=})", " ", rows) + "\n")  # a line an architecture


if __name__ == "__main__":
    write_table()
