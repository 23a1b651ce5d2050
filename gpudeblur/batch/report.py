"""The report of a run over a folder, one row a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ..images.files import write_text
from .folders import Outcome

REPORT_SUFFIXES = (".csv", ".json")


def write_report(path: Path, outcomes: Iterable[Outcome]) -> None:
    """All outcomes as a table (.csv) or a list of objects (.json)."""
    rows = [asdict(one) for one in outcomes]
    if path.suffix.lower() == ".json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [*Outcome.__dataclass_fields__], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    write_text(path, text, suffixes=REPORT_SUFFIXES)
