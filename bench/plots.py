"""Draws the last run in results/throughput.jsonl of each device: results/throughput_cpu.svg and _cuda.svg.

    python bench/plots.py

Milliseconds a picture over its pixels, at the best batch, with the floor dashed; and pictures a second over the batch
where there are batches.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "gpudeblur"  # the same figures give the same file
import matplotlib.pyplot as plt  # noqa: E402

RESULTS = Path(__file__).parent / "results"
CASE = re.compile(r"(\d+)x(\d+)_k(\d+)_b(\d+)$")  # a restoration behind the batch is another bench


def last_rows() -> dict[str, list[dict[str, Any]]]:
    """By device; rows with pixels, kernel size and batch as numbers."""
    runs: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for line in map(json.loads, (RESULTS / "throughput.jsonl").read_text().splitlines()):
        # A line a row; until November 2026 a line held all rows of a run.
        for row in line.get("rows", [line] if line.get("run") == "rows" else ()):
            match = CASE.match(row["case"])
            if not match or "ms" not in row:
                continue
            h, w, kernel, batch = map(int, match.groups())
            if runs.get(line["device"], ("",))[0] != line["date"]:
                runs[line["device"]] = line["date"], []
            point = {**row, "pixels": h * w, "shape": f"{h} x {w}", "kernel": kernel, "batch": batch}
            runs[line["device"]][1].append(point)
    return {device: rows for device, (_, rows) in runs.items()}


def draw(device: str, rows: list[dict[str, Any]]) -> None:
    batches = max(row["batch"] for row in rows) > 1
    figure, axes = plt.subplots(1, 1 + batches, figsize=(5.5 * (1 + batches), 3.8), squeeze=False)
    left = axes[0, 0]
    for colour, kernel in enumerate(sorted({row["kernel"] for row in rows})):
        slowest_first = sorted((row for row in rows if row["kernel"] == kernel), key=lambda row: -row["ms"])
        best = {row["pixels"]: row for row in slowest_first}  # the last one of a size stays
        ordered = [best[pixels] for pixels in sorted(best)]
        pixels = [row["pixels"] for row in ordered]
        left.loglog(pixels, [row["ms"] for row in ordered], "o-", color=f"C{colour}", label=f"kernel {kernel} px")
        left.loglog(pixels, [row["floor_ms"] for row in ordered], "--", color=f"C{colour}", linewidth=1)
    left.set(xlabel="pixels", ylabel="ms a picture (dashed: the floor)", title=f"kernel estimation, {device}")
    left.legend()
    if batches:
        right = axes[0, 1]
        some = sorted((row for row in rows if row["kernel"] == 25), key=lambda row: (row["pixels"], row["batch"]))
        for shape, group in groupby(some, lambda row: row["shape"]):
            points = [(row["batch"], row["per_second"]) for row in group]
            right.loglog(*zip(*points, strict=True), "o-", label=shape)
        right.set(xlabel="batch", ylabel="pictures/s, kernel 25 px")
        right.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / f"throughput_{device}.svg", metadata={"Date": None})


def main() -> None:
    for device, rows in last_rows().items():
        draw(device, rows)


if __name__ == "__main__":
    main()
