"""The 32 Levin pictures: estimate every kernel, let the yardstick script judge.

    python bench/levin.py --data DATA --yardstick PATH/eval_levin.py [--out DIR] [--jobs 2]

Kernels are written as `imXX_kerYY.npy` in convolution sense, asked for at the size of the true ones. The yardstick
runs as it is, one process per picture of the set, and its figures are printed and appended to results/levin.jsonl.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from cases import levin_cases
from evaluate import BARS, Estimator, arguments, estimate, record, settings, table

COLUMNS = {
    "image": "", "er": ".3f", "psnr": ".2f", "ssim": ".4f", "ks": ".4f", "psnr_true": ".2f", "psnr_blurred": ".2f",
    "seconds": ".2f",
}  # fmt: skip


def judge(yardstick: Path, data: Path, kernels: Path, cache: Path, only: list[str], jobs: int) -> dict[str, Any]:
    """The yardstick's rows by picture name; one subprocess for each entry of `only`, `jobs` of them at a time."""

    def shard(part: str) -> dict[str, Any]:
        # A cache each: the yardstick rewrites the whole file at its end.
        result = kernels / f"yardstick_{part}.json"
        command = [
            sys.executable, str(yardstick), "--data", str(data / "levin"), "--kernels", str(kernels),
            "--cache", str(cache / f"levin_{part}.json"), "--only", part, "--json", str(result),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        sys.stderr.write(done.stderr)
        done.check_returncode()
        return json.loads(result.read_text())["rows"]

    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        return {name: row for rows in pool.map(shard, only) for name, row in rows.items()}


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary row: medians, means and counts within the bars."""
    er = np.array([row["er"] for row in rows])
    total: dict[str, Any] = {"n": len(rows), "er_median": np.median(er), "er_mean": er.mean(), "er_max": er.max()}
    for bar in BARS:
        total[f"within_{bar:g}"] = int((er <= bar).sum())
    for key in ("psnr", "ssim", "ks"):
        total[f"{key}_mean"] = np.mean([row[key] for row in rows])
    return {**total, "seconds_median": np.median([row["seconds"] for row in rows])}


def main() -> None:
    parser = arguments(
        __doc__, "data", "cache", "jobs", "options", "device", "dtype", "only", "no-record",
        cache={"help": "folder for the yardstick's true-kernel figures; OUT by default"},
    )  # fmt: skip
    parser.add_argument("--yardstick", required=True, type=Path, help="eval_levin.py")
    parser.add_argument("--out", type=Path, help="folder for the kernels; a temporary one by default")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        cases = [case for case in levin_cases(args.data) if args.only in case.name]
        if not cases:
            parser.error(f"no levin/imXX_kerYY.mat with {args.only!r} in its name under {args.data}")
        kernels, seconds = estimate(cases, Estimator(args.options, args.device, args.dtype), args.jobs)
        for case, kernel in zip(cases, kernels, strict=True):
            np.save(out / f"{case.name}.npy", kernel)
        # Shards by picture; when only some kernels are run, the whole name is the shard.
        parts = sorted({case.name if args.only else case.name[:4] for case in cases})
        judged = judge(args.yardstick, args.data, out, args.cache or out, parts, max(args.jobs, 1))

    rows = [{"image": c.name, "seconds": s, **judged[c.name]} for c, s in zip(cases, seconds, strict=True)]
    total = totals(rows)
    print(table(rows, COLUMNS))
    print("\n" + ", ".join(f"{key} {value:.4g}" for key, value in total.items()))
    if not args.only and not args.no_record:
        er = {row["image"]: round(row["er"], 4) for row in rows}
        record("levin", {**settings(args, "options", "device", "dtype", "jobs"), "totals": total, "er": er})


if __name__ == "__main__":
    main()
