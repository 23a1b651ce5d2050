"""What the paper claims: the smooth prior and the kernel refinement each make kernel and picture better.

    python bench/ablation.py --data DATA [--jobs 2] [--limit N]

28 portraits with synthetic shake and 10 BSDS photographs x the 8 Levin kernels, without noise and with 1 %, each with
the method as it is, without the smooth prior (smooth_weight=0) and without the refinement (refine=False). The table
gives paired differences in the mean, "with" minus "without", and 95 % bootstrap intervals that draw whole pictures.
Appends to results/ablation.jsonl.
"""

from __future__ import annotations

from typing import Any

from cases import Case, face_cases, levin_kernels, natural_cases
from evaluate import Estimator, Row, arguments, estimate, evaluate, mean_interval, record, settings, summary

WITHOUT = {"smooth prior": {"smooth_weight": 0.0}, "refinement": {"refine": False}}
# Key of a row, its words in the table, and the sign of an improvement.
FIGURES = {"dissimilarity": ("1 - similarity", -1), "kernel_error": ("kernel L2 error", -1), "psnr": ("PSNR, dB", 1)}
NOISES = (0.0, 0.01)


def picture_of(case_name: str) -> str:
    """The photograph behind a case: the 8 kernels of one share it."""
    return "_".join(case_name.split("_")[:2])


def compare(full: list[Row], less: list[Row]) -> dict[str, Any]:
    """Means with and without, and the mean paired difference with its interval, for each figure."""
    groups = [picture_of(row["name"]) for row in full]
    found: dict[str, Any] = {}
    for key, (_, sign) in FIGURES.items():
        with_it, without = ([row[key] for row in rows] for rows in (full, less))
        mean, low, high = mean_interval([a - b for a, b in zip(with_it, without, strict=True)], groups)
        found[key] = {
            "with": sum(with_it) / len(with_it),
            "without": sum(without) / len(without),
            "difference": mean,
            "interval": [low, high],
            "wins": sum(sign * (a - b) > 0 for a, b in zip(with_it, without, strict=True)),
        }
    return found


def main() -> None:
    parser = arguments(
        __doc__, "data", "method", "cache", "jobs", "options", "device", "dtype", "no-record",
        options={"help": "fields of TwoStepOptions for all, as JSON"},
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="cases of each set, for a quick look; not recorded")
    args = parser.parse_args()

    def rows_of(cases: list[Case], changes: dict[str, Any]) -> list[Row]:
        estimator = Estimator({**args.options, **changes}, args.device, args.dtype)
        kernels, _ = estimate(cases, estimator, args.jobs)
        pairs = list(zip(cases, kernels, strict=True))
        rows = evaluate(pairs, settings={"method": args.method}, cache=args.cache, jobs=args.jobs)
        return [{**row, "dissimilarity": 1 - row["similarity"]} for row in rows]

    print("| pictures | noise | figure | removed | with | without | difference [95 %] | better on |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for noise in NOISES:
        sets = {
            "portraits": list(face_cases(args.data, noise=noise)),
            "natural": list(natural_cases(args.data, levin_kernels(args.data), noise=noise)),
        }
        for name, cases in sets.items():
            cases = cases[: args.limit]
            if not cases:
                parser.error(f"no pictures for {name!r} under {args.data}")
            full = rows_of(cases, {})
            for removed, changes in WITHOUT.items():
                found = compare(full, rows_of(cases, changes))
                results.append({"pictures": name, "noise": noise, "removed": removed, "n": len(cases), **found})
                for key, (words, _) in FIGURES.items():
                    f = found[key]
                    print(
                        f"| {name} | {noise:.0%} | {words} | {removed} | {f['with']:.4f} | {f['without']:.4f} "
                        f"| {f['difference']:+.4f} [{f['interval'][0]:+.4f}, {f['interval'][1]:+.4f}] "
                        f"| {f['wins']} of {len(cases)} |",
                        flush=True,
                    )
            results.append({"pictures": name, "noise": noise, "removed": None, "totals": summary(full)})
    if args.limit is None and not args.no_record:
        record("ablation", {**settings(args, "options", "device", "dtype", "method"), "results": results})


if __name__ == "__main__":
    main()
