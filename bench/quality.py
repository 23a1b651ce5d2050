"""Kernels and pictures of blind deblurring: many pictures of many kinds, one set of options for all of them.

    python -m bench quality --data DATA [--sets natural,text] [--every 8] [--variants JSON] [--cache DIR] [--jobs 2]
    python -m bench quality --data DATA --sets levin --yardstick eval_levin.py

| set | cases | pictures, kernels |
|---|---|---|
| levin | 32 | Levin et al. 2009, photographed; with --yardstick, its script judges the kernels too |
| portraits | 224 | 28 faces of 320 px x 8 shakes of 21 to 41 px, no noise |
| small-faces | 800 | 100 faces of 109 x 89 px x Levin's 8 kernels, no noise |
| natural-0, -1, -2 | 400 each | 50 photographs x 8 kernels of 15 to 51 px, trajectories never shared; 0, 1, 2 % noise |
| text | 80 | 10 pages x 8 kernels of 15 to 51 px, half with 1 % noise |
| low-light | 60 | 15 photographs made night, with clipped lamps, x 4 kernels of 19 to 31 px, 1 % noise |

All but Levin's are cropped as a camera crops and rounded to 8 bits; recipes and seeds are in cases.py. A case is
`deblur`red with final="sparse" at the true kernel's size unless --kernel-size says otherwise. Its kernel is judged
by the error ratio (ER): squared error over that with the true kernel, both restored by the same method. `result_gain`
is of the picture that `deblur` itself returned: what a user gets, be the kernel right or not. Intervals are 95 %, by
bootstrap over whole pictures; an ER counts as at most 10 in `er_mean_capped`, since a few failures decide a plain mean.
"blurred <= 2" is the share that the blurred picture would have at that bar: what success is worth there. In low-light
the common restoration takes clipped pixels as they are, so that a wrong kernel can be the better one: look at the
similarity too.

--variants names options over --options, each run on every set and compared with the first in pairs. An ablation is

    --variants '[{"name": "all"}, {"name": "no smooth prior", "options": {"smooth_weight": 0}},
                 {"name": "no refinement", "options": {"refine": false}},
                 {"name": "learned prior", "prior": {"weight": 0.004}}]'

Appends a line for each variant and set to results/quality.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpudeblur
from gpudeblur.metrics import scores

from .cases import Case, face_cases, levin_cases, low_light_cases, mixed_cases, small_face_cases, text_cases, thinned
from .evaluate import Evaluation, Row, arguments, mean_interval, parallel, record, roc_area, settings, table

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
BARS = (1.5, 2, 3)  # of the error ratio
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
    """`gpudeblur.deblur` and the evaluation of its kernel, as a value that travels to a worker process."""

    options: Mapping[str, Any] = field(default_factory=dict)
    kernel_size: int | str | None = "true"
    evaluation: Evaluation = field(default_factory=Evaluation)
    device: str = "cpu"
    prior: Mapping[str, Any] | None = None  # arguments of DiscriminativePrior

    def deblur(self, case: Case) -> tuple[Case, np.ndarray, Row]:
        """Case, kernel, and the figures of what `deblur` returned."""
        size: Any = case.kernel.shape if self.kernel_size == "true" else self.kernel_size
        prior = None if self.prior is None else gpudeblur.priors.DiscriminativePrior(**self.prior)
        options = gpudeblur.TwoStepOptions(**self.options, prior=prior)
        picture = case.blurred.astype(options.dtype) if "dtype" in self.options else case.blurred
        result = gpudeblur.deblur(picture, size, final="sparse", device=self.device, options=options)
        kernel = np.asarray(result.kernel, np.float64)
        psnr, blurred = (scores(image, case.sharp).psnr for image in (result.image, case.blurred))
        return case, kernel, {
            "picture": case.picture,
            "noise_sigma": case.noise_sigma,
            "true_size": case.kernel.shape,
            "size": kernel.shape,
            "result_psnr": psnr,
            "result_gain": psnr - blurred,
            "confidence": float(result.info["confidence"]),
            "seconds": result.info["seconds_kernel"],
            "info": {key: value for key, value in result.info.items() if isinstance(value, float)},
        }  # fmt: skip

    def evaluate(self, outcome: tuple[Case, np.ndarray, Row]) -> tuple[Row, np.ndarray]:
        case, kernel, figures = outcome
        return {**self.evaluation((case, kernel)), **figures}, kernel

    def __call__(self, case: Case) -> tuple[Row, np.ndarray]:
        """All figures of a case, those of `info` among them, and the kernel."""
        return self.evaluate(self.deblur(case))


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
    for key in ("psnr", "ssim", "similarity", "kernel_error", "gain", "result_gain", "psnr_blurred", "psnr_true"):
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
    differences = {
        key: [a[key] - b[key] for a, b in pairs] for key in ("psnr", "result_gain", "similarity", "kernel_error")
    }
    differences["er_capped"] = [min(a["er"], ER_CAP) - min(b["er"], ER_CAP) for a, b in pairs]
    return {key: mean_interval(values, pictures) for key, values in differences.items()}


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
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ------------------------------------------------------------------ a set
def run(cases: Iterable[Case], trial: Trial, jobs: int, out: Path) -> list[Row]:
    """Rows of all cases; the kernels go to <out>/<case>.npy and the rows to <out>.json."""
    rows = []
    out.mkdir(parents=True, exist_ok=True)
    if trial.device == "cuda":  # a device is used from this process alone
        outcomes = parallel(trial.evaluate, map(trial.deblur, cases), jobs)
    else:
        outcomes = parallel(trial, cases, jobs)
    for row, kernel in outcomes:
        rows.append(row)
        np.save(out / f"{row['name']}.npy", kernel)
    about = {"options": dict(trial.options), "kernel_size": trial.kernel_size, "method": trial.evaluation.method}
    out.with_name(f"{out.name}.json").write_text(json.dumps(strict({**about, "rows": rows})))
    return rows


def yardstick_totals(script: Path, data: Path, kernels: Path, cache: Path, names: Sequence[str], jobs: int) -> Row:
    """What the yardstick's own script says of the kernels, run as it is, a process for each picture of the set."""
    cache.mkdir(parents=True, exist_ok=True)

    def rows_of(picture: str) -> dict[str, Row]:
        # A cache each: the script rewrites the whole file at its end.
        result = cache / f"yardstick_{picture}.json"
        command = [
            sys.executable, str(script), "--data", str(data / "levin"), "--kernels", str(kernels),
            "--cache", str(cache / f"levin_{picture}.json"), "--only", picture, "--json", str(result),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(result.read_text())["rows"]

    # As many shards as processes: pictures, or cases where there are only a few of them.
    pictures = sorted({name[:4] for name in names}) if len(names) == 32 else list(names)
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        rows = {name: row for shard in pool.map(rows_of, pictures) for name, row in shard.items()}
    er = np.array([rows[name]["er"] for name in names])
    total: Row = {"n": len(names), "er_median": float(np.median(er)), "er_mean": er.mean(), "er_max": er.max()}
    total |= {f"within_{bar:g}": int((er <= bar).sum()) for bar in BARS}
    total |= {f"{key}_mean": float(np.mean([rows[name][key] for name in names])) for key in ("psnr", "ssim", "ks")}
    return {**total, "er": dict(zip(names, er.round(4).tolist(), strict=True))}


# ------------------------------------------------------------------ the command
def kernel_size(text: str) -> int | str | None:
    """The argument of --kernel-size."""
    return {"true": "true", "none": None}[text] if text in ("true", "none") else int(text)


def chosen_sets(text: str) -> list[str]:
    """Names of SETS from a list with commas; "natural" is all of its noises."""
    chosen = []
    for name in text.split(","):
        chosen += (names := [key for key in SETS if key == name or key.startswith(f"{name}-")])
        if not names:
            raise argparse.ArgumentTypeError(f"no set {name!r}; there are {', '.join(SETS)}")
    return [name for name in SETS if name in chosen]


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "method", "cache", "jobs", "options", "device", "only", "every", "no-record")
    parser.add_argument("--sets", type=chosen_sets, default=list(SETS), help="names with commas; all by default")
    parser.add_argument("--kernel-size", type=kernel_size, default="true", help="true, none (estimated), or odd pixels")
    parser.add_argument(
        "--variants", type=json.loads, default=[{"name": "default"}],
        help='JSON, [{"name": ..., "options": {...}, "prior": {...}}, ...]',
    )  # fmt: skip
    parser.add_argument("--yardstick", type=Path, help="eval_levin.py, which judges the set levin too")
    parser.add_argument("--out", type=Path, help="folder for kernels and rows, VARIANT/SET/; not kept by default")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    args = parser.parse_args(argv)

    def cases(name: str) -> Iterator[Case]:
        return (case for case in thinned(SETS[name](args.data), args.every) if args.only in case.name)

    for name in args.sets:  # before hours of work: what is missing
        if next(cases(name), None) is None:
            parser.error(f"no cases of {name!r} with {args.only!r} in their names under {args.data}")
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        for name in args.sets:
            print(f"\n{name}\n\n{table([], COLUMNS)}", flush=True)
            first: list[Row] | None = None
            for variant in args.variants:
                options = {**args.options, **variant.get("options", {})}
                evaluation = Evaluation(args.method, args.cache)
                trial = Trial(options, args.kernel_size, evaluation, args.device, variant.get("prior"))
                folder = out / variant["name"] / name
                rows = run(cases(name), trial, args.jobs, folder)
                total = totals(rows)
                if first is not None:
                    total["over_first"] = over_first(rows, first)
                first = first or rows
                print(table([table_row(variant["name"], total)], COLUMNS).splitlines()[-1], flush=True)
                if args.verbose:
                    print(f"\n{table(rows, CASE_COLUMNS)}\n")
                if args.yardstick and name == "levin":
                    names = [row["name"] for row in rows]
                    cache = args.cache or Path(temporary)
                    judged = yardstick_totals(args.yardstick, args.data, folder, cache, names, args.jobs)
                    print({key: value for key, value in judged.items() if key != "er"})
                    total["yardstick"] = judged
                if not args.only and not args.no_record:
                    about = settings(args, "kernel_size", "method", "every", "jobs", "device")
                    line = {"set": name, "variant": variant["name"], "options": options, "prior": trial.prior, **about}
                    each = {row["name"]: [round(row["er"], 4), round(row["confidence"], 3)] for row in rows}
                    record("quality", {**line, "totals": strict(total), "er_and_confidence": each})


if __name__ == "__main__":
    main()
