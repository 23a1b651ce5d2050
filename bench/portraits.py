"""The 28 portraits with synthetic camera shake of 21 to 41 px: estimate every kernel, judge by one restoration.

    python bench/portraits.py --data DATA [--jobs 2]

The figures to watch: the share at an error ratio of at most 3, and the mean gain. Appends to results/portraits.jsonl.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cases import face_cases
from evaluate import Estimator, arguments, estimate, evaluate, record, settings, summary, table

COLUMNS = {
    "name": "", "er": ".3f", "psnr": ".2f", "gain": "+.2f", "ssim": ".4f", "similarity": ".4f", "kernel_error": ".3f",
    "psnr_true": ".2f", "psnr_blurred": ".2f", "seconds": ".2f",
}  # fmt: skip


def main() -> None:
    names = ("data", "method", "cache", "jobs", "options", "device", "dtype", "only", "no-record")
    parser = arguments(__doc__, *names)
    parser.add_argument("--size", type=int, default=320, help="side of the blurred picture")
    parser.add_argument("--per-picture", type=int, default=1, help="kernels for each portrait")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation, pictures in [0, 1]")
    parser.add_argument("--quantise", action="store_true", help="round the blurred picture to 8 bits")
    parser.add_argument("--out", type=Path, help="folder for the kernels; not kept by default")
    args = parser.parse_args()

    made = face_cases(args.data, args.size, args.per_image, noise=args.noise, quantise=args.quantise)
    cases = [case for case in made if args.only in case.name]
    if not cases:
        parser.error(f"no faces_hq/*.jpg with {args.only!r} in its case name under {args.data}")
    kernels, seconds = estimate(cases, Estimator(args.options, args.device, args.dtype), args.jobs)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        for case, kernel in zip(cases, kernels, strict=True):
            np.save(args.out / f"{case.name}.npy", kernel)
    pairs = list(zip(cases, kernels, strict=True))
    rows = evaluate(pairs, settings={"method": args.method}, cache=args.cache, jobs=args.jobs)
    rows = [{**row, "seconds": s} for row, s in zip(rows, seconds, strict=True)]
    total = summary(rows, seconds)
    print(table(rows, COLUMNS))
    print("\n" + ", ".join(f"{key} {value:.4g}" for key, value in total.items()))
    if not args.only and not args.no_record:
        keys = ("options", "device", "dtype", "jobs", "size", "per_image", "noise", "quantise", "method")
        er = {row["name"]: round(row["er"], 4) for row in rows}
        record("portraits", {**settings(args, *keys), "totals": total, "er": er})


if __name__ == "__main__":
    main()
