"""bench/gpu_check.sh with a stub for Python and compute-sanitizer, and the steps of bench/smoke.py on NumPy."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import smoke
from bench.gpu_report import rows

REPOSITORY = Path(__file__).parent.parent
SCRIPT = REPOSITORY / "bench" / "gpu_check.sh"
SCALE = 0.1  # of all limits
TOTALS = {"A": 320, "B": 400}

if shutil.which("bash") is None or shutil.which("timeout") is None:
    pytest.skip("needs bash and GNU coreutils", allow_module_level=True)

# Logs its arguments; "late" never ends, "deaf" ignores SIGINT and leaves a process running.
STUB = """#!/usr/bin/env bash
echo "$*" >>"$STUB/arguments"
case "$*" in
    *"bench.gpu_report summary"*) exec {python} "$@" ;;
    *test_batch.py*) for rate in 300 500 450; do
        printf '{{"bar": "speed: pictures/s", "limit": ">= 400", "measured": %d, "holds": true}}\\n' $rate \\
            >>"$GPUDEBLUR_RESULTS/speed.jsonl"; done ;;
    *"restore_after_clear"*) echo "a traceback"; exit 1 ;;
    *"bench.smoke"*"default"*) echo '{{"step": "default", "error": "it is late"}}' >>"$GPUDEBLUR_RESULTS/smoke.jsonl" ;;
esac
case "$STUB_MODE $*" in
    "late "*"bench.gpu_report versions"*) echo begun; exec sleep 100 ;;
    "deaf "*"bench.gpu_report versions"*) trap '' INT; sleep 100 & echo $! >"$STUB/pid"; wait ;;
    "long "*test_cuda_kernels.py*) echo '{{"case": "one"}}' >>"$GPUDEBLUR_RESULTS/kernels.jsonl"; exec sleep 100 ;;
esac
"""


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    program = tmp_path / "python"
    program.write_text(STUB.format(python=sys.executable))
    program.chmod(0o755)
    return program


def start(stub: Path, call: str, mode: str) -> subprocess.Popen[str]:
    """The script in a session of its own, its results in `out` beside the stub."""
    folder = stub.parent
    (folder / "data" / "levin").mkdir(parents=True)
    environment = {
        **os.environ, "OUT": str(folder / "out"), "PYTHON": str(stub), "SANITIZER": str(stub), "STUB": str(folder),
        "STUB_MODE": mode, "GPU_CHECK_SCALE": str(SCALE), "CUPY_CACHE_DIR": str(folder / "cache"),
    }  # fmt: skip
    command = ["bash", str(SCRIPT), call, str(folder / "data")]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def planned(call: str) -> list[tuple[int, str, int]]:
    """Turn, name and limit of each part."""
    output = subprocess.run(["bash", SCRIPT, "--plan", call], capture_output=True, text=True, check=True).stdout
    return [(int(turn), name, int(limit)) for turn, name, limit in map(str.split, output.splitlines())]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("call", ["A", "B"])
def test_the_limits_add_up(call: str) -> None:
    turns: dict[int, int] = {}
    for turn, _, limit in planned(call):
        turns[turn] = max(limit, turns.get(turn, 0))
    assert sum(turns.values()) <= TOTALS[call]


@pytest.mark.parametrize(("call", "mode", "code"), [("A", "late", 124), ("B", "deaf", 137)])
def test_to_the_end(stub: Path, call: str, mode: str, code: int) -> None:
    """One part is stopped at its limit, another fails (A); all others run, with each step, and the lines tell so."""
    process = start(stub, call, mode)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    out = stub.parent / "out"
    assert len(list(out.iterdir())) <= 8
    *parts, summary = rows(out / "gpu_check.jsonl")
    limits = {name: limit * SCALE for _, name, limit in planned(call)}
    spare = {"learned"} & {part["part"] for part in parts}
    assert {part["part"] for part in parts} == set(limits) | spare
    for part in parts:
        late = part["part"] == "versions"
        assert part["exit"] == (code if late else int(part["part"] == "smoke_memory")), part
        assert part["seconds"] < part["limit"] + (10 * SCALE if code == 137 else 0) + 2, part  # a busy machine
        if part["part"] in limits:
            assert part["limit"] == pytest.approx(limits[part["part"]])
    assert summary["failed_parts"] == [part["part"] for part in parts if part["exit"]]
    assert [bar["measured"] for bar in summary["bars"]] == [500]
    assert "holds  speed: pictures/s: 500 >= 400" in printed
    log = (out / "gpu_check.log").read_text().splitlines()
    if call == "A":
        assert {"versions: begun", "smoke_memory: a traceback"} <= set(log)
        assert (out / "cupy_cache.tgz").stat().st_size
        assert summary["failed_steps"] == ["default"]
        steps = re.findall(r"smoke\.jsonl (.*)", (stub.parent / "arguments").read_text())
        assert sorted(" ".join(steps).split()) == sorted(smoke.STEPS)
    else:
        assert spare, "there was time"
        assert not runs(int((stub.parent / "pid").read_text())), "what the part left running"


def test_killed_in_the_middle(stub: Path) -> None:
    process = start(stub, "B", "long")
    out = stub.parent / "out"
    deadline = time.monotonic() + 30
    while not (out / "kernels.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    names = [name for _, name, _ in planned("B")]
    assert [row["part"] for row in rows(out / "gpu_check.jsonl")] == names[: names.index("kernels")]
    assert rows(out / "kernels.jsonl") == [{"case": "one"}]
    assert rows(out / "speed.jsonl")[1]["measured"] == 500


def test_the_command_lines_of_the_readme() -> None:
    text = (REPOSITORY / "bench" / "README.md").read_text()
    lines = re.findall(r"^    (.*gpu_check\.sh [AB].*)$", text, re.MULTILINE)
    assert [re.search(r"gpu_check\.sh (.)", line)[1] for line in lines] == ["A", "B"]  # type: ignore[index]
    assert max(map(len, lines)) < 2000


# ------------------------------------------------------------------ the steps themselves
def test_smoke_on_numpy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a step, on the screen and in the file; a failure has its line, and what follows runs."""
    file = tmp_path / "smoke.jsonl"

    def broken(_: Any) -> None:
        raise ValueError("no such luck")

    monkeypatch.setitem(smoke.STEPS, "broken", broken)
    with pytest.raises(SystemExit) as end:
        smoke.main(["broken", "transforms", "volume", "--device", "cpu", "--out", str(file)])
    assert end.value.code == 1
    captured = capsys.readouterr()
    lines = rows(file)
    assert [json.loads(line) for line in captured.out.splitlines()] == lines
    assert [row["step"] for row in lines] == ["broken", "transforms", "volume"]
    assert lines[0]["error"] == "ValueError: no such luck"
    assert 'raise ValueError("no such luck")' in captured.err
    assert not set(smoke.without_success(file)) & {"transforms", "volume"}
    assert "broken" in smoke.without_success(file)


def test_unknown_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        smoke.main(["nothing", "--device", "cpu"])
    assert "no step nothing" in capsys.readouterr().err
