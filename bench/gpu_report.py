"""What `gpu_check.sh` says before its parts and after them, as JSON lines in $OUT/gpu_check.jsonl.

`gpu_report.py versions OUT` gives GPU, driver, commit and versions; `gpu_report.py summary OUT` gives bars, parts and
smoke steps that failed, and exits with 1 if a part failed.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "scipy", "scikit-image", "cupy-cuda13x", "cupy-cuda12x", "torch", "pytest", "pytest-xdist")
REPOSITORY = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    except OSError as why:  # no such program here
        return str(why)


def versions() -> Row:
    """Of what is installed; nothing is imported, which would take seconds."""
    found = {each.name: each.version for each in importlib.metadata.distributions() if each.name in PACKAGES}
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "gpu": output_of("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
        "commit": output_of("git", "rev-parse", "--short", "HEAD"),
        "versions": {"python": platform.python_version(), **found},
    }


def rows(file: Path) -> list[Row]:
    """The lines of a file; none where there is no such file. A last line that was cut off is left out."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def best_bars(rows: Iterable[Row]) -> list[Row]:
    """Of the rows of one bar the best, as of several batches."""
    rows = list(rows)
    ascending = sorted(rows, key=lambda row: row["measured"] if row["limit"][0] != "<" else -row["measured"])
    return list({row["bar"]: row for row in (*rows, *ascending)}.values())


def verdict(bar: Row) -> str:
    holds = {True: "holds ", False: "MISSED", None: "no bar"}[bar["holds"]]
    return f"{holds} {bar['bar']}: {bar['measured']:.4g} {bar['limit']}"


def summary(out: Path) -> Row:
    parts = [row for row in rows(out / "gpu_check.jsonl") if "part" in row]
    bars = best_bars(row for row in rows(out / "speed.jsonl") if "bar" in row)
    steps = {row["step"]: "error" in row for row in rows(out / "smoke.jsonl")}
    return {
        "failed_parts": [row["part"] for row in parts if row["exit"] != 0],
        "failed_steps": [name for name, failed in steps.items() if failed],
        "bars": [{key: row[key] for key in ("bar", "limit", "measured", "holds")} for row in bars],
        "seconds": {row["part"]: row["seconds"] for row in parts},
    }


def main(command: str, out: Path) -> int:
    row = {"versions": versions, "summary": lambda: summary(out)}[command]()
    with (out / "gpu_check.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    if command == "versions":
        print(json.dumps(row))
        return 0
    for bar in row["bars"]:
        print(verdict(bar))
    for key in ("failed_steps", "failed_parts"):
        print(f"{key}: {' '.join(row[key]) or 'none'}")
    return bool(row["failed_parts"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
