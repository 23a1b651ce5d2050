"""The report of a run over many files: a table with one row per file, and a summary."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from ..images.files import check_output, write_whole
from .folders import Outcome
from .score import Score

REPORT_SUFFIXES = (".csv", ".json")
# Below this confidence, which is in [0, 1], the kernel is a guess, or a network may not have helped.
LOW_CONFIDENCE = 0.5
# What the summary says of outputs that were there.
STATUS_TEXTS = {
    "skipped": "there already; --overwrite does them again",
    "not in the journal": "there already, made with unknown options; --overwrite replaces them",
    "other options": "made with other options or another version, and kept; --overwrite replaces them",
    "source changed": "made before their pictures changed, and kept; --overwrite replaces them",
}


def write_report(path: Path, outcomes: Iterable[Outcome | Score], row_type: type = Outcome) -> None:
    """All outcomes as a table (.csv) or a list of objects (.json), with the fields of `row_type`.

    A file name that is not UTF-8 has its bytes in the table, and the escapes of Python in JSON.

    Raises
    ------
    OSError
        It cannot be written; the message names the file.
    """
    rows = [asdict(outcome) for outcome in outcomes]
    if path.suffix.lower() == ".json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [field.name for field in fields(row_type)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    try:
        write_whole(check_output(path, suffixes=REPORT_SUFFIXES), text.encode(errors="surrogateescape"))
    except OSError as error:
        text = f"report {path} cannot be written ({error}); make room, or name another file"
        if row_type is Outcome:
            text += ": the same command without --overwrite writes it from the journal"
        raise OSError(text) from error


def left_out_text(outcomes: Iterable[Outcome | Score]) -> str:
    """How many files were left out, and why: 4: 3 .webp, 1 .txt. "" without any."""
    # Without the figures of single pictures: "sharp (0.12)" is "sharp".
    texts = (outcome.reason for outcome in outcomes if outcome.status == "left out")
    reasons = Counter(re.sub(r" \([\d.]+\)$", "", text) for text in texts)
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    parts = ", ".join(f"{count} {reason}" for reason, count in ordered)
    return f"{reasons.total()}: {parts}" if parts else ""


def failure_text(outcome: Outcome | Score) -> str:
    """What failed, and the name of its file."""
    return outcome.error if outcome.source in outcome.error else f"{outcome.source}: {outcome.error}"


def strength_text(strength: float) -> str:
    """A strength with two digits, rounded down: what reads 1.00 is whole."""
    return f"{math.floor(100 * strength) / 100:.2f}"


def summary(
    outcomes: Sequence[Outcome], total: int, seconds: float, *, is_network: bool = False, report: Path | None = None
) -> dict[str, str]:
    """Rows that say what became of `total` files; `report` is the file that has a row for each."""
    which = f"{'--report' if report is None else report} says which"
    statuses = Counter(outcome.status for outcome in outcomes)
    written = [outcome for outcome in outcomes if outcome.status == "written"]
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    rows = {"written": f"{len(written)} of {total} in {seconds:.2f} s, {len(written) / seconds:.2f} a second"}
    for status, text in STATUS_TEXTS.items():
        if statuses[status]:
            rows[status] = f"{statuses[status]}, {text}"
    if left_out := left_out_text(outcomes):
        rows["left out"] = left_out
    if low := sum(outcome.confidence is not None and outcome.confidence < LOW_CONFIDENCE for outcome in written):
        meaning = "the network may not have helped" if is_network else "their kernels are guesses"
        rows["low confidence"] = f"{low}, {meaning}; {which}"
    strengths = [outcome.strength for outcome in written if outcome.strength is not None and outcome.strength < 1]
    if strengths and not is_network:  # an automatic strength is part of every network
        rows["strength below 1"] = (
            f"{len(strengths)}, down to {strength_text(min(strengths))}: blended with the blurred picture; "
            f"{which}, --strength 1 returns all of the restoration"
        )
    if failed:
        rows["failed"] = "\n".join(map(failure_text, failed))
    return rows
