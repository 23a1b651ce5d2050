"""`gpudeblur batch` killed at random moments and run again: all files must be whole and equal those of one run.

python -m bench kills [--pictures 200] [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpudeblur.batch.journal import JOURNAL_NAME
from gpudeblur.images.files import write_image

ROOT = Path(__file__).parents[1]
TIMEOUT = 600  # seconds
# The command with a single initialization, to be quick.
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from gpudeblur import TwoStepOptions
from gpudeblur.cli import commands
options = TwoStepOptions(iterations=1, kernel_iterations=2, refine=False, starts=("wide",))
commands.two_step_options = lambda *_, **__: options
commands.main()
"""
OPTIONS = ("-k", "5", "--final", "hyper-laplacian", "--gamma", "1", "--workers", "1", "--batch-size", "2", "-q")


@dataclass
class Outcome:
    """Of all runs: exit codes of the killed ones, and what is wrong with the files after the last."""

    kills: Counter[str] = field(default_factory=Counter)  # signal and exit code
    pictures: int = 0
    damaged: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    not_in_journal: list[str] = field(default_factory=list)
    not_in_report: list[str] = field(default_factory=list)


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, "batch", "in", "-o", out, "--kernels-out", f"{out}/kernels", *OPTIONS]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [*command, "--report", f"{out}.json"]
    return subprocess.Popen(line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(folder: Path, out: str) -> None:
    with start(folder, out) as process:
        if process.wait(TIMEOUT):
            raise RuntimeError(f"an undisturbed run ended with exit code {process.returncode}")


def kill_at_random(folder: Path, out: str, number: signal.Signals, seconds: float, rng: random.Random) -> int | None:
    """Kill a run within `seconds` from its first line in the journal, one of four while it starts; its exit code.

    None if it ended before.
    """
    journal, began = folder / out / JOURNAL_NAME, time.monotonic()
    size = journal.stat().st_size if journal.exists() else 0
    with start(folder, out) as process:
        if rng.random() < 0.75:
            while process.poll() is None and (journal.stat().st_size if journal.exists() else 0) == size:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, seconds))
        else:
            time.sleep(rng.uniform(0.1, 1.0))
        if process.poll() is not None:
            return None
        process.send_signal(number)
        code = process.wait(TIMEOUT)
    assert time.monotonic() - began < TIMEOUT
    return code if code else None


def kill_and_resume(folder: Path, pictures: int, kills: int, seed: int = 0) -> Outcome:
    """Make `pictures` in a folder, and kill runs over them `kills` times, in as many output folders as that takes."""
    rng, outcome = random.Random(seed), Outcome()
    (folder / "in").mkdir()
    for i in range(pictures):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24), dtype=np.uint8)
        write_image(folder / "in" / f"{i:03}.png", pixels)
    finish(folder, "reference")
    rows = json.loads((folder / "reference.json").read_text())
    seconds = 2 * sum(row["seconds"] for row in rows) / kills
    round_number = 0
    while outcome.kills.total() < kills:
        out = f"out{round_number}"
        round_number += 1
        while outcome.kills.total() < kills:
            number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[outcome.kills.total() % 3]
            code = kill_at_random(folder, out, number, seconds, rng)
            if code is None:
                break
            outcome.kills[f"{number.name} {code}"] += 1
        finish(folder, out)
        check(folder, out, outcome)
    return outcome


def check(folder: Path, out: str, outcome: Outcome) -> None:
    """Add what is wrong in an output folder."""
    reference, results = folder / "reference", folder / out
    outcome.temporary += map(str, results.rglob("*.tmp"))
    names = [file.relative_to(reference) for file in reference.rglob("*.*") if file.name != JOURNAL_NAME]
    for name in names:
        file = results / name
        if not file.is_file() or file.read_bytes() != (reference / name).read_bytes():
            outcome.damaged.append(str(file))
    last = {}
    for line in (results / JOURNAL_NAME).read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        last[values["output"]] = values
    report = {Path(row["output"]).name: row for row in json.loads((folder / f"{out}.json").read_text())}
    for name in (name for name in names if name.suffix == ".png"):
        outcome.pictures += 1
        if last.get(str(name), {}).get("status") != "written":
            outcome.not_in_journal.append(f"{out}/{name}")
        if report.get(str(name), {}).get("confidence") is None:
            outcome.not_in_report.append(f"{out}/{name}")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench kills", description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_and_resume(Path(folder), options.pictures, options.kills, options.seed)
    print(f"kills: {dict(outcome.kills)}; {outcome.pictures} pictures after the last runs")
    for name in ("damaged", "temporary", "not_in_journal", "not_in_report"):
        values = getattr(outcome, name)
        print(f"{name.replace('_', ' ')}: {len(values)} {values[:5]}")
    sys.exit(any((outcome.damaged, outcome.temporary, outcome.not_in_journal, outcome.not_in_report)))
