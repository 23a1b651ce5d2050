"""The report of a run over many files: a table with one row per file, and a summary."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from ..images.files import write_text
from .folders import Outcome

REPORT_SUFFIXES = (".csv", ".json")
# Below this confidence, which is in [0, 1], the kernel is a guess, or a network may not have helped.
LOW_CONFIDENCE = 0.5


def write_report(path: Path, outcomes: Iterable[Outcome]) -> None:
    """All outcomes as a table (.csv) or a list of objects (.json)."""
    rows = [asdict(outcome) for outcome in outcomes]
    if path.suffix.lower() == ".json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [field.name for field in fields(Outcome)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    write_text(path, text, suffixes=REPORT_SUFFIXES)


def strength_text(strength: float) -> str:
    """A strength with two digits, rounded down: what reads 1.00 is whole."""
    return f"{math.floor(100 * strength) / 100:.2f}"


def summary(outcomes: Sequence[Outcome], total: int, seconds: float, *, is_network: bool = False) -> dict[str, str]:
    """Rows that say what became of `total` files."""
    written = [outcome for outcome in outcomes if outcome.status == "written"]
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    rows = {"written": f"{len(written)} of {total} in {seconds:.2f} s, {len(written) / seconds:.2f} a second"}
    if skipped := total - len(written) - len(failed):
        rows["skipped"] = f"{skipped}, there already; --overwrite does them again"
    if low := sum(outcome.confidence is not None and outcome.confidence < LOW_CONFIDENCE for outcome in written):
        meaning = "the network may not have helped" if is_network else "their kernels are guesses"
        rows["low confidence"] = f"{low}, {meaning}; --report says which"
    strengths = [outcome.strength for outcome in written if outcome.strength is not None and outcome.strength < 1]
    if strengths and not is_network:  # an automatic strength is part of every network
        rows["strength below 1"] = (
            f"{len(strengths)}, down to {strength_text(min(strengths))}: blended with the blurred picture; "
            "--report says which, --no-cautious returns all of the restoration"
        )
    if failed:
        rows["failed"] = "\n".join(
            outcome.error if outcome.error.startswith(outcome.source) else f"{outcome.source}: {outcome.error}"
            for outcome in failed
        )
    return rows
