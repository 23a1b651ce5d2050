"""Benches of speed, for pytest-benchmark; the rows of a group do the same work, so that they can be compared.

    python -m bench speed [pytest's arguments]        is, from the repository's root,
    pytest bench/speed --benchmark-only --benchmark-json=bench/results/speed_cpu.json
    pytest bench/speed --benchmark-only --device cuda -k "test_deblur or test_full_batches"

Seconds are: on a CPU, CPU seconds of the process on one thread, which other processes hardly change, but on the wall
for deblur_batch; on CUDA, between events on the current stream, the host's part included. Our options: --device,
--seconds (what does not fit is skipped), --smallest (the smallest case of each, once: does it run?).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def main(argv: Sequence[str] = ()) -> None:
    """Run them, JSON under bench/results."""
    device = "cuda" if "cuda" in argv or "--device=cuda" in argv else "cpu"
    arguments = [str(FOLDER), "--benchmark-only", "-q", "-p", "no:cacheprovider", *argv]
    if not any(argument.startswith(("--benchmark-json", "--smallest", "-h", "--help", "-k")) for argument in argv):
        arguments.append(f"--benchmark-json={FOLDER.parent / 'results' / f'speed_{device}.json'}")
    sys.exit(pytest.main(arguments))
