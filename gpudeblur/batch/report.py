"""The report of a run over many files: a table with one row per file, and a summary."""

from __future__ import annotations

import csv
import io
import json
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


def summary(
    outcomes: Sequence[Outcome], total: int, seconds: float, *, low_confidence: str = "their kernels are guesses"
) -> dict[str, str]:
    """Rows that say what became of `total` files, and what a low confidence means."""
    written = [outcome for outcome in outcomes if outcome.status == "written"]
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    rows = {"written": f"{len(written)} of {total} in {seconds:.2f} s, {len(written) / seconds:.2f} a second"}
    if skipped := total - len(written) - len(failed):
        rows["skipped"] = f"{skipped}, there already; --overwrite does them again"
    if low := sum(outcome.confidence is not None and outcome.confidence < LOW_CONFIDENCE for outcome in written):
        rows["low confidence"] = f"{low}, {low_confidence}; --report says which"
    if failed:
        rows["failed"] = "\n".join(
            outcome.error if outcome.error.startswith(outcome.source) else f"{outcome.source}: {outcome.error}"
            for outcome in failed
        )
    return rows
