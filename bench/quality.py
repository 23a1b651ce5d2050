"""Kernels and pictures of blind deblurring: many pictures of many kinds, one set of options for all of them.

    python -m bench quality --data DATA [--sets natural,text] [--every 8] [--variants JSON] [--jobs 2]
    python -m bench quality --data DATA --sets levin --yardstick eval_levin.py
    python -m bench quality --data DATA --sets photographs,phone --out FOLDER

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
is of the picture that `deblur` itself returned. Intervals are 95 %, by bootstrap over whole pictures; an ER counts as
at most 10 in `er_mean_capped`, since a few failures decide a plain mean. "blurred <= 2" is the share that the blurred
picture would have at that bar. In low-light the common restoration takes clipped pixels as they are, so that a wrong
kernel can be the better one: look at the similarity too.

Two more sets run only if they are named, with kernels of unknown size and the defaults of `deblur`:

| photographs | 15 | blurred by cameras, gray; for ten a kernel that makes them readable stands for the true one |
| phone | 2 | a collage of sharp photographs as a phone takes it: 12 and 48 Mpixel, kernels of 61 and 121 px |

Their tables have a row for each picture. FOLDER gets contact sheets: blurred, result, kernel and reference kernel. A
photograph's kernel is right if its similarity to the reference is at least 0.8, and its result whole if the strength
is. A phone's picture is scored at its best shift, and deblurred in a process of its own, whose peak memory is shown.

--variants names options over --options, each run on every set and compared with the first in pairs. For photographs
and phone, "deblur" may hold arguments of deblur: {"name": "gamma", "deblur": {"gamma": 2.2}}. An ablation is

    --variants '[{"name": "all"}, {"name": "no smooth prior", "options": {"smooth_weight": 0}},
                 {"name": "no refinement", "options": {"refine": false}},
                 {"name": "learned prior", "prior": {"weight": 0.004}}]'

Appends a line for each variant and set to results/quality.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
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

from . import photographs
from .cases import Case, face_cases, levin_cases, low_light_cases, mixed_cases, small_face_cases, text_cases, thinned
from .evaluate import Row, arguments, evaluation, mean_interval, parallel, record, roc_area, settings, table

SETS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "levin": levin_cases,
    "portraits": partial(face_cases, per_image=8, quantise=True),
    "small-faces": small_face_cases,
    "natural-0": mixed_cases,
    "natural-1": partial(mixed_cases, noise=0.01),
    "natural-2": partial(mixed_cases, noise=0.02),
    "text": text_cases,
    "low-light": low_light_cases,
}
# Sets without cases: what makes their rows, the totals of these, and the columns of their tables.
PICTURE_SETS = {
    "photographs": (photographs.photograph_rows, photographs.photograph_totals, photographs.PHOTOGRAPH_COLUMNS),
    "phone": (photographs.phone_rows, photographs.phone_totals, photographs.PHONE_COLUMNS),
}
BARS = (1.5, 2, 3)  # of the error ratio
ER_CAP = 10.0
SUCCESS = 2.0  # what the confidence is about
# Headings of the table: what of the totals, how written; a figure with an interval has "_95" beside it.
COLUMNS = {
    "n": ("n", "d"),
    "ER": ("er_mean", ".2f"),
    "ER, at most 10": ("er_mean_capped", ".2f"),
    "median": ("er_median", ".3f"),
    **{f"<= {bar:g}": (f"success_{bar:g}", ".0%") for bar in BARS},
    "blurred <= 2": ("blurred_success_2", ".0%"),
    "PSNR": ("psnr_mean", ".2f"),
    "SSIM": ("ssim_mean", ".3f"),
    "similarity": ("similarity_mean", ".3f"),
    "gain": ("gain_mean", "+.2f"),
    "result gain": ("result_gain_mean", "+.2f"),
    "worst": ("result_gain_min", "+.2f"),
    "s": ("seconds_median", ".2f"),
    "ROC area": ("roc_area", ".3f"),
    "PSNR over the first": ("psnr_over_first", "+.2f"),
}


@dataclass(frozen=True)
class Trial:
    """`gpudeblur.deblur` and the evaluation of its kernel, as a value that travels to a worker process."""

    options: Mapping[str, Any] = field(default_factory=dict)
    kernel_size: int | bool | None = True  # the true one
    device: str = "cpu"
    prior: Mapping[str, Any] | None = None  # arguments of DiscriminativePrior

    def two_step_options(self) -> gpudeblur.TwoStepOptions:
        prior = None if self.prior is None else gpudeblur.priors.DiscriminativePrior(**self.prior)
        return gpudeblur.TwoStepOptions(**self.options, prior=prior)

    def deblur(self, case: Case) -> tuple[Case, np.ndarray, Row]:
        """Case, kernel, and the figures of what `deblur` returned."""
        size: Any = case.kernel.shape if self.kernel_size is True else self.kernel_size
        options = self.two_step_options()
        picture = case.blurred.astype(options.dtype) if "dtype" in self.options else case.blurred
        result = gpudeblur.deblur(picture, size, final="sparse", device=self.device, options=options)
        kernel = np.asarray(result.kernel, np.float64)
        psnr, blurred = (scores(image, case.sharp).psnr for image in (result.image, case.blurred))
        figures: Row = {"picture": case.picture, "noise_sigma": case.noise_sigma, "true_size": case.kernel.shape}
        figures |= {"size": kernel.shape, "result_psnr": psnr, "result_gain": psnr - blurred}
        figures |= {"confidence": float(result.info["confidence"]), "seconds": result.info["seconds_kernel"]}
        info = {key: value for key, value in result.info.items() if isinstance(value, float)}
        return case, kernel, figures | {"info": info}

    def __call__(self, case: Case) -> tuple[Row, np.ndarray]:
        return evaluated(self.deblur(case))


def evaluated(outcome: tuple[Case, np.ndarray, Row]) -> tuple[Row, np.ndarray]:
    """All figures of a case, those of `info` among them, and the kernel."""
    case, kernel, figures = outcome
    return {**evaluation((case, kernel)), **figures}, kernel


def totals(rows: Sequence[Row]) -> Row:
    """What the bench reports of a set; `..._95` are the ends of an interval."""
    er = np.array([row["er"] for row in rows])
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
    area = roc_area(np.array([row["confidence"] for row in rows]), er <= SUCCESS)
    return total if math.isnan(area) else {**total, "roc_area": area}


def over_first(rows: Sequence[Row], first: Sequence[Row]) -> Row:
    """Paired differences, `rows` minus `first`: mean, and the ends of its interval as "..._95"."""
    pictures = [row["picture"] for row in rows]
    differences: Row = {}
    for key in ("psnr", "result_gain", "similarity", "kernel_error", "er"):
        cap = ER_CAP if key == "er" else math.inf
        values = [min(a[key], cap) - min(b[key], cap) for a, b in zip(rows, first, strict=True)]
        name = f"{key}_capped_over_first" if key == "er" else f"{key}_over_first"
        differences[name], *differences[f"{name}_95"] = mean_interval(values, pictures)
    return differences


def table_row(variant: str, total: Row, columns: Mapping[str, tuple[str, str]] = COLUMNS) -> str:
    """`total` under the headings of `columns`."""
    cells = [variant]
    for key, form in columns.values():
        cell = format(total[key], form) if key in total else ""
        ends = ", ".join(format(end, form) for end in total.get(f"{key}_95", ()))
        cells.append(f"{cell} [{ends}]" if ends else cell)
    return f"| {' | '.join(cells)} |"


def run(cases: Iterable[Case], trial: Trial, jobs: int, out: Path) -> list[Row]:
    """Rows of all cases; the kernels go to <out>/<case>.npy and the rows to <out>.json."""
    rows = []
    out.mkdir(parents=True, exist_ok=True)
    if trial.device == "cuda":  # a device is used from this process alone
        outcomes = parallel(evaluated, map(trial.deblur, cases), jobs)
    else:
        outcomes = parallel(trial, cases, jobs)
    for row, kernel in outcomes:
        rows.append(row)
        np.save(out / f"{row['name']}.npy", kernel)
    about = {"options": dict(trial.options), "kernel_size": trial.kernel_size}
    out.with_name(f"{out.name}.json").write_text(json.dumps({**about, "rows": rows}))
    return rows


def yardstick_totals(script: Path, data: Path, kernels: Path, names: Sequence[str], jobs: int) -> Row:
    """What the yardstick's own script says of the kernels, run as it is, a process for each picture of the set."""

    def rows_of(picture: str) -> dict[str, Row]:
        # A cache each: the script rewrites the whole file at its end.
        result, cache = (kernels / f"{name}_{picture}.json" for name in ("yardstick", "cache"))
        given = {"data": data / "levin", "kernels": kernels, "cache": cache, "only": picture, "json": result}
        command = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
        subprocess.run([sys.executable, str(script), *command], check=True, stdout=subprocess.DEVNULL)
        return json.loads(result.read_text())["rows"]

    # As many shards as processes: pictures, or cases where there are only a few of them.
    pictures = sorted({name[:4] for name in names}) if len(names) == 32 else list(names)
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        rows = {name: row for shard in pool.map(rows_of, pictures) for name, row in shard.items()}
    er = np.array([rows[name]["er"] for name in names])
    total: Row = {"n": len(names), "er_median": float(np.median(er)), "er_mean": er.mean(), "er_max": er.max()}
    total |= {f"within_{bar:g}": int((er <= bar).sum()) for bar in BARS}
    return total | {
        f"{key}_mean": float(np.mean([rows[name][key] for name in names])) for key in ("psnr", "ssim", "ks")
    }


def chosen_sets(text: str) -> list[str]:
    """Names of sets from a list with commas; "natural" is all of its noises."""
    chosen, sets = [], [*SETS, *PICTURE_SETS]
    for name in text.split(","):
        chosen += (names := [key for key in sets if key == name or key.startswith(f"{name}-")])
        if not names:
            raise argparse.ArgumentTypeError(f"no set {name!r}; there are {', '.join(sets)}")
    return [name for name in sets if name in chosen]


def run_pictures(name: str, variant: Mapping[str, Any], args: argparse.Namespace, out: Path) -> None:
    """Run a variant on one of PICTURE_SETS; print a row for each picture, and record it."""
    make_rows, totals_of, columns = PICTURE_SETS[name]
    trial = Trial({**args.options, **variant.get("options", {})}, None, args.device, variant.get("prior"))
    attempt = photographs.Attempt(trial.two_step_options(), variant.get("deblur", {}), args.device)
    print(f"\n{name}, {variant['name']}\n\n{table([], dict.fromkeys(['picture', *columns], ''))}", flush=True)
    rows = []
    for row in make_rows(args.data, attempt, args.jobs, args.every, out):
        rows.append(row)
        print(table_row(row["name"], row, columns), flush=True)
    total = totals_of(rows)
    print(f"\n{', '.join(f'{key} {value:.4g}' for key, value in total.items())}", flush=True)
    if not args.no_record:
        about = {"options": trial.options, "prior": trial.prior, "deblur": dict(attempt.arguments)}
        line = {"set": name, "variant": variant["name"], **about, **settings(args, "every", "jobs", "device")}
        record("quality", {**line, "totals": total, "rows": rows})


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "yardstick", "jobs", "options", "device", "every", "no-record")
    parser.add_argument(
        "--sets", type=chosen_sets, default=list(SETS), help="names with commas; default: all of the first table"
    )
    parser.add_argument("--kernel-size", type=json.loads, default="true", help="true, null (estimated), or odd pixels")
    parser.add_argument("--variants", type=json.loads, default=[{"name": "default"}],
                        help='JSON, [{"name": ..., "options": {...}, "prior": {...}}, ...]')  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for kernels and rows, VARIANT/SET/; not kept by default")
    args = parser.parse_args(argv)
    for name in args.sets:  # before hours of work: what is missing
        if next(SETS[name](args.data) if name in SETS else photographs.paths(name, args.data), None) is None:
            parser.error(f"no cases of {name!r} under {args.data}")
    with tempfile.TemporaryDirectory() as temporary:
        for name, variant in itertools.product((name for name in args.sets if name in PICTURE_SETS), args.variants):
            run_pictures(name, variant, args, (args.out or Path(temporary)) / variant["name"] / name)
        for name in (name for name in args.sets if name in SETS):
            print(f"\n{name}\n\n{table([], dict.fromkeys(['variant', *COLUMNS], ''))}", flush=True)
            first: list[Row] | None = None
            for variant in args.variants:
                options, prior = {**args.options, **variant.get("options", {})}, variant.get("prior")
                trial = Trial(options, args.kernel_size, args.device, prior)
                folder = (args.out or Path(temporary)) / variant["name"] / name
                rows = run(thinned(SETS[name](args.data), args.every), trial, args.jobs, folder)
                total = totals(rows) | (over_first(rows, first) if first else {})
                first = first or rows
                print(table_row(variant["name"], total), flush=True)
                if args.yardstick and name == "levin":
                    names = [row["name"] for row in rows]
                    total["yardstick"] = yardstick_totals(args.yardstick, args.data, folder, names, args.jobs)
                    print(total["yardstick"])
                if not args.no_record:
                    about = settings(args, "kernel_size", "every", "jobs", "device")
                    line = {"set": name, "variant": variant["name"], "options": options, "prior": prior, **about}
                    each = {row["name"]: [round(row["er"], 4), round(row["confidence"], 3)] for row in rows}
                    record("quality", {**line, "totals": total, "er_and_confidence": each})


if __name__ == "__main__":
    main()
