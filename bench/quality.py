"""A bench of kernels that cannot be fooled: many pictures of many kinds, one set of options for all of them.

    python bench/quality.py --data DATA [--sets natural,text] [--every 8] [--variants JSON] [--cache DIR] [--jobs 2]

| set | cases | pictures, kernels |
|---|---|---|
| levin | 32 | Levin et al. 2009, photographed; judged here by the common restoration, by the yardstick in levin.py |
| portraits | 224 | 28 faces of 320 px x 8 shakes of 21 to 41 px, no noise |
| small-faces | 800 | 100 faces of 109 x 89 px x Levin's 8 kernels, no noise |
| natural-0, -1, -2 | 400 each | 50 photographs x 8 kernels of 15 to 51 px, trajectories never shared; 0, 1, 2 % noise |
| text | 80 | 10 pages x 8 kernels of 15 to 51 px, half with 1 % noise |
| low-light | 60 | 15 photographs made night, with clipped lamps, x 4 kernels of 19 to 31 px, 1 % noise |

All but Levin's are cropped as a camera crops and rounded to 8 bits; recipes and seeds are in cases.py. A case is
`deblur`red with final="sparse", told the true kernel's size unless --kernel-size says otherwise. Its kernel is judged
by the error ratio (ER): squared error over that with the true kernel, both restored by the same method. `result_gain`
is of the picture that `deblur` itself returned: what a user gets, be the kernel right or not. Intervals are 95 %, by
bootstrap over whole pictures; an ER counts as at most 10 in `er_mean_capped`, since a few failures decide a plain mean.
"blurred <= 2" is the share that the blurred picture would have at that bar: what success is worth there. In low-light
the restoration knows nothing of clipping, so that a wrong kernel can be the better one: look at the similarity too.

Appends a line for each variant and set to results/quality.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, face_cases, levin_cases, low_light_cases, mixed_cases, small_face_cases, text_cases, thinned
from evaluate import BARS, Row, arguments, evaluate, mean_interval, parallel, record, roc_area, settings, table

from gpudeblur.metrics import scores

SETS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "levin": levin_cases,
    "portraits": partial(face_cases, size=320, per_image=8, quantise=True),
    "small-faces": small_face_cases,
    "natural-0": mixed_cases,
    "natural-1": partial(mixed_cases, noise=0.01),
    "natural-2": partial(mixed_cases, noise=0.02),
    "text": text_cases,
    "low-light": low_light_cases,
}
ER_CAP = 10.0
SUCCESS = 2.0  # what the confidence is about
COLUMNS = {
    "variant": "", "n": "", "ER": "", "ER, at most 10": "", "median": ".3f", **{f"<= {bar:g}": "" for bar in BARS},
    "blurred <= 2": ".0%",
    "PSNR": ".2f", "SSIM": ".3f", "similarity": ".3f", "gain": "+.2f", "result gain": "+.2f", "worst": "+.2f",
    "s": ".2f", "ROC area": ".3f", "PSNR over the first": "",
}  # fmt: skip
CASE_COLUMNS = {
    "name": "", "er": ".3f", "psnr": ".2f", "ssim": ".3f", "similarity": ".3f", "gain": "+.2f", "result_gain": "+.2f",
    "confidence": ".3f", "seconds": ".2f",
}  # fmt: skip


# ------------------------------------------------------------------ one case
@dataclass(frozen=True)
class Trial:
    """`gpudeblur.deblur` and its judgement, as a value that travels to a worker process."""

    options: Mapping[str, Any] = field(default_factory=dict)
    kernel_size: int | str | None = "true"
    method: str = "sparse"
    cache: Path | None = None

    def __call__(self, case: Case) -> tuple[Row, np.ndarray]:
        """All figures of a case, those of `info` among them, and the kernel."""
        import gpudeblur

        size: Any = case.kernel.shape if self.kernel_size == "true" else self.kernel_size
        options = gpudeblur.TwoStepOptions(**self.options)
        result = gpudeblur.deblur(case.blurred, size, final="sparse", options=options)
        kernel = np.asarray(result.kernel, np.float64)
        (row,) = evaluate([(case, kernel)], settings={"method": self.method}, cache=self.cache)
        own = scores(result.image, case.sharp)
        row |= {
            "picture": case.picture,
            "noise_sigma": case.noise_sigma,
            "true_size": case.kernel.shape,
            "size": kernel.shape,
            "result_psnr": own.psnr,
            "result_gain": own.psnr - row["psnr_blurred"],
            "confidence": float(result.info["confidence"]),
            "seconds": result.info["seconds_kernel"],
            "info": {key: value for key, value in result.info.items() if isinstance(value, float)},
        }
        return row, kernel


# ------------------------------------------------------------------ totals
def totals(rows: Sequence[Row]) -> Row:
    """What the bench reports of a set; `..._95` are the ends of an interval."""
    er = np.array([row["er"] for row in rows])
    confidence = np.array([row["confidence"] for row in rows])
    means = {"er_mean": er, "er_mean_capped": np.minimum(er, ER_CAP)}
    means |= {f"success_{bar:g}": er <= bar for bar in BARS}
    total: Row = {"n": len(rows), "pictures": len({row["picture"] for row in rows})}
    for name, values in means.items():
        mean, *ends = mean_interval(values.tolist(), [row["picture"] for row in rows])
        total |= {name: mean, f"{name}_95": ends}
    total |= {"er_median": float(np.median(er)), "er_max": float(er.max())}
    for key in ("psnr", "ssim", "similarity", "gain", "result_gain", "psnr_blurred", "psnr_true"):
        total[f"{key}_mean"] = float(np.mean([row[key] for row in rows]))
    # The blurred picture's own error ratio: what it costs to do nothing.
    nothing = np.array([10 ** ((row["psnr_true"] - row["psnr_blurred"]) / 10) for row in rows])
    total["blurred_success_2"] = float((nothing <= SUCCESS).mean())
    total["result_gain_min"] = float(min(row["result_gain"] for row in rows))
    total["seconds_median"] = float(np.median([row["seconds"] for row in rows]))
    total["roc_area"] = roc_area(confidence, er <= SUCCESS)
    return total


def over_first(rows: Sequence[Row], first: Sequence[Row]) -> Row:
    """Paired differences, `rows` minus `first`: [mean, low, high]."""
    pictures = [row["picture"] for row in rows]
    pairs = list(zip(rows, first, strict=True))
    return {
        "psnr": mean_interval([a["psnr"] - b["psnr"] for a, b in pairs], pictures),
        "result_gain": mean_interval([a["result_gain"] - b["result_gain"] for a, b in pairs], pictures),
        "er_capped": mean_interval([min(a["er"], ER_CAP) - min(b["er"], ER_CAP) for a, b in pairs], pictures),
    }


def table_row(variant: str, total: Row) -> Row:
    """`total` under the headings of COLUMNS."""

    def interval(key: str, form: str) -> str:
        return f"{total[key]:{form}} [{', '.join(format(end, form) for end in total[f'{key}_95'])}]"

    gained = total["over_first"]["psnr"] if "over_first" in total else None
    return {
        "variant": variant,
        "n": total["n"],
        "ER": interval("er_mean", ".2f"),
        "ER, at most 10": interval("er_mean_capped", ".2f"),
        "median": total["er_median"],
        **{f"<= {bar:g}": interval(f"success_{bar:g}", ".0%") for bar in BARS},
        "blurred <= 2": total["blurred_success_2"],
        "PSNR": total["psnr_mean"],
        "SSIM": total["ssim_mean"],
        "similarity": total["similarity_mean"],
        "gain": total["gain_mean"],
        "result gain": total["result_gain_mean"],
        "worst": total["result_gain_min"],
        "s": total["seconds_median"],
        "ROC area": total["roc_area"],
        "PSNR over the first": "" if gained is None else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*gained),
    }


def strict(value: Any) -> Any:
    """Without NaN and infinity, which JSON lacks: None."""
    if isinstance(value, Mapping):
        return {key: strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ------------------------------------------------------------------ a set
def run(cases: Iterable[Case], trial: Trial, jobs: int, out: Path | None = None) -> list[Row]:
    """Rows of all cases; with `out`, the kernels go there as <case>.npy, and the rows to <out>.json."""
    rows = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for row, kernel in parallel(trial, cases, jobs):
        rows.append(row)
        if out is not None:
            np.save(out / f"{row['name']}.npy", kernel)
    if out is not None:
        about = {"options": dict(trial.options), "kernel_size": trial.kernel_size, "method": trial.method}
        out.with_name(f"{out.name}.json").write_text(json.dumps(strict({**about, "rows": rows})))
    return rows


def kernel_size(text: str) -> int | str | None:
    """The argument of --kernel-size."""
    return {"true": "true", "none": None}[text] if text in ("true", "none") else int(text)


def chosen_sets(text: str) -> list[str]:
    """Names of SETS from a list with commas; "natural" is all of its noises."""
    wanted = text.split(",")
    for name in wanted:
        if not any(one == name or one.startswith(f"{name}-") for one in SETS):
            raise argparse.ArgumentTypeError(f"no set {name!r}; there are {', '.join(SETS)}")
    return [one for one in SETS if any(one == name or one.startswith(f"{name}-") for name in wanted)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "method", "cache", "jobs", "options", "only", "no-record")
    parser.add_argument("--sets", type=chosen_sets, default=list(SETS), help="names with commas; all by default")
    parser.add_argument("--kernel-size", type=kernel_size, default="true", help="true, none (estimated), or odd pixels")
    parser.add_argument(
        "--variants", type=json.loads, default=[{"name": "default", "options": {}}],
        help='JSON, [{"name": ..., "options": {...}}, ...]: options over --options, each on every set',
    )  # fmt: skip
    parser.add_argument("--every", type=int, default=1, help="take one case of so many, evenly")
    parser.add_argument("--out", type=Path, help="folder for kernels and rows, VARIANT/SET/; not kept by default")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    args = parser.parse_args(argv)

    def cases(name: str) -> Iterator[Case]:
        return (case for case in thinned(SETS[name](args.data), args.every) if args.only in case.name)

    for name in args.sets:  # before hours of work: what is missing
        if next(cases(name), None) is None:
            parser.error(f"no cases of {name!r} with {args.only!r} in their names under {args.data}")
    for name in args.sets:
        print(f"\n{name}\n\n{table([], COLUMNS)}", flush=True)
        found: list[list[Row]] = []
        for variant in args.variants:
            trial = Trial({**args.options, **variant["options"]}, args.kernel_size, args.method, args.cache)
            out = args.out and args.out / variant["name"] / name
            rows = run(cases(name), trial, args.jobs, out)
            total = totals(rows)
            if found:
                total["over_first"] = over_first(rows, found[0])
            found.append(rows)
            print(table([table_row(variant["name"], total)], COLUMNS).splitlines()[-1], flush=True)
            if not args.only and not args.no_record:
                about = settings(args, "kernel_size", "method", "every", "jobs")
                line = {"set": name, "variant": variant["name"], "options": dict(trial.options), **about}
                each = {row["name"]: [round(row["er"], 4), round(row["confidence"], 3)] for row in rows}
                record("quality", {**line, "totals": strict(total), "er_and_confidence": each})
        if args.verbose:
            for variant, rows in zip(args.variants, found, strict=True):
                print(f"\n{name}, {variant['name']}\n\n{table(rows, CASE_COLUMNS)}")


if __name__ == "__main__":
    main()
