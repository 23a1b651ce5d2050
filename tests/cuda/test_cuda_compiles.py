"""Rung 2: NVRTC compiles every CUDA kernel for every architecture we name, without a device or a driver.

No spills and no stack, whatever the NVRTC. Registers and shared memory are those of `cuda_resources.json` under the
NVRTC that the table names, and elsewhere such that the largest block fits. After a deliberate change:

    python tests/cuda/test_cuda_compiles.py
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
def resources(name: str, architecture: str) -> tuple[int, ...]:
    """Registers a thread; bytes of static shared memory, of the stack frame, of spill stores and loads."""
    log = compile_source(cuda.source(name), architecture)
    assert "warning" not in log, log  # NVRTC has no option that makes errors of them
    assert "bytes stack frame" in log, log
    registers = re.search(r"Used (\d+) registers", log)
    assert registers, log
    texts = ("smem", "stack frame", "spill stores", "spill loads")
    figures = [re.search(rf"(\d+) bytes {text}", log) for text in texts]
    return int(registers[1]), *(int(figure[1]) if figure else 0 for figure in figures)


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


@pytest.mark.parametrize(
    "architecture", ["90", *(pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES if a != "90")]
)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_spills(name: str, architecture: str) -> None:
    registers, shared, *spills = resources(name, architecture)
    assert spills == [0, 0, 0]
    registers_per_warp = 256 * -(-32 * registers // 256)
    assert registers_per_warp * block_size(name) // 32 <= 65536
    if version() == table()["nvrtc"]:
        rows = table()["registers, bytes of shared memory"]
        assert rows[name][f"sm_{architecture}"] == [registers, shared], "another figure; see the top of this file"


def test_the_table_names_the_kernels_there_are() -> None:
    assert sorted(table()["registers, bytes of shared memory"]) == NAMES


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
    assert resources("toeplitz_cg", "90")[1] == cuda._BLOCK_SUM_BYTES
    assert resources("project", "90")[1] <= cuda._PROJECT_STATIC_BYTES
    for name in ("dilate", "project", "toeplitz_cg", "toeplitz_nnls"):  # those with a dynamic part
        assert resources(name, "90")[1] + cuda._SHARED_BY_DEFAULT <= 48 << 10


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
    rows = {n: {f"sm_{a}": resources(n, a)[:2] for a in ARCHITECTURES} for n in NAMES}
    content = {"command": "python tests/cuda/test_cuda_compiles.py", "nvrtc": version()}
    text = json.dumps(content | {"registers, bytes of shared memory": rows}, indent=1)
    TABLE.write_text(re.sub(r"\n {3,}| *\n  (?=})", " ", text) + "\n")  # a line a CUDA kernel


if __name__ == "__main__":
    write_table()
