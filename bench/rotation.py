"""Blur that varies over the image: `deblur(blur="rotation")` in pairs with blur="uniform"; a known field of kernels.

    python -m bench rotation --data DATA [--count 16] [--split val] [--sets rotation,control,known] [--focal known]
    python -m bench rotation --data DATA --sets koehler [--sheet FILE.png]

| set | cases |
|---|---|
| rotation | photographs under random paths of 12 to 25 px; roll 0, 3, 6, 12 px at the corner, focal length 0.75, 1, |
|          | 1.4 longer sides or infinite; bilinear homographies, 0.5 % noise, 8 bit |
| control | the same photographs under one kernel everywhere: nothing can be gained, only lost |
| known | photographs with roll 0 and 12 px, focal length one longer side: `deconvolve` by "sparse" with the path's |
|       | own field, with the kernel at its centre, and with a field on a grid twice as fine |
| koehler | after [Koehler2012]: 4 photographs (at most `--count`) under the same 12 paths, else as "rotation"; takes |
|         | many minutes, and runs only where `--sets` names it |

PSNR is that of the best shift (1/4 px) and roll (5 values within a pixel at the corner), which no method can know. In
"koehler" it is the best over 40 frames, the sharp photograph seen from poses of the path, at the best shift.
"true" is `deconvolve` with the path's own field. Intervals are 95 %, by bootstrap over photographs.

Appends a line for each set to results/rotation.jsonl. `--sheet` draws some cases of each set but "known": sharp,
blurred, uniform, rotation, true, and below them the kernels, of fields at 3 x 3 points.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import gpudeblur
from gpudeblur.images.kernels import fit_size, support_sides
from gpudeblur.numerics.poses import node_points
from gpudeblur.synthesis import rotation_field

from .cases import spread
from .evaluate import Row, arguments, mean_interval, parallel, record, settings, table
from .figures import SheetRow, enlarged, sheet
from .rotation_cases import KERNEL_SIZE, RotationCase, control_cases, known_cases, koehler_cases, rotation_cases

SETS = {"rotation": rotation_cases, "control": control_cases, "known": known_cases, "koehler": koehler_cases}
DEFAULT_SETS = ["rotation", "control", "known"]  # "koehler" has 48 cases
SHEET_CASES = 5  # of a set
TRUE_SIZE = 71  # of the kernels of the path's own field
COLUMNS = {"name": "", "blurred": ".2f", "uniform": ".2f", "rotation": ".2f", "true": ".2f", "gain": "+.2f",
           "advantage": "+.3f", "kept": "", "focal": ".0f", "s": ".1f", "s uniform": ".1f"}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Both blurs on one case, as a value that travels to a worker process."""

    options: Mapping[str, Any] = field(default_factory=dict)
    known_focal: bool = False
    device: str = "cpu"
    draw: bool = False  # rows for a contact sheet, under "drawing"

    def __call__(self, case: RotationCase) -> Row:
        options = gpudeblur.TwoStepOptions(**self.options)
        blurred = case.blurred.astype(np.float32)
        common: dict[str, Any] = {"options": options, "device": self.device}
        begin = time.perf_counter()
        uniform = gpudeblur.deblur(blurred, KERNEL_SIZE, **common)
        middle = time.perf_counter()
        focal = case.focal if self.known_focal else None
        rotation = gpudeblur.deblur(blurred, KERNEL_SIZE, blur="rotation", focal=focal, **common)
        seconds = {"s uniform": middle - begin, "s": time.perf_counter() - middle}
        true = gpudeblur.deconvolve(blurred, true_field(case), method="sparse")
        pictures = {"blurred": blurred, "uniform": uniform.image, "rotation": rotation.image, "true": true}
        psnr = {name: case.score(np.asarray(image, np.float64)) for name, image in pictures.items()}
        row: Row = {"name": case.name, "picture": case.picture, "roll": case.roll, "true_focal": case.focal, **psnr}
        row |= {"gain": psnr["rotation"] - psnr["uniform"], "kept": rotation.info["blur"], **seconds}
        if self.draw:
            field = rotation.kernel if rotation.field is None else rotation.field
            kernels = {"uniform": uniform.kernel, "rotation": field, "true": true_field(case)}
            row["drawing"] = drawing(case, pictures, psnr, kernels)
        return row | {key: rotation.info[key] for key in ("advantage", "focal", "confidence", "strength")}


KNOWN_COLUMNS = {"name": "", "nodes": "", "blurred": ".2f", "centre": ".2f", "field": ".2f", "finer": ".2f",
                 "gain": "+.2f", "times": ".1f"}  # fmt: skip


def known_field(case: RotationCase) -> Row:
    """The path's own field beside its centre kernel and a finer field; `times`: its CPU time over the one kernel's."""
    blurred, field = case.blurred.astype(np.float32), true_field(case)
    gy, gx = field.kernels.shape[:2]
    finer = rotation_field(case.path, case.focal, case.blurred.shape, TRUE_SIZE, grid=(2 * gy - 1, 2 * gx - 1))
    support = fit_size(field.centre, support_sides(field.centre))
    kernels: dict[str, Any] = {"centre": support.astype(np.float32), "field": field, "finer": finer}
    row: Row = {"name": case.name, "picture": case.picture, "roll": case.roll, "nodes": f"{gy} x {gx}"}
    row["blurred"], seconds = case.score(case.blurred), {}
    for name, kernel in kernels.items():
        begin = time.process_time()
        image = gpudeblur.deconvolve(blurred, kernel, method="sparse")
        seconds[name] = time.process_time() - begin
        row[name] = case.score(np.asarray(image, np.float64))
    return row | {"gain": row["field"] - row["centre"], "times": seconds["field"] / seconds["centre"]}


def known_totals(rows: Sequence[Row]) -> Row:
    total: Row = {"n": len(rows)}
    for roll in sorted({row["roll"] for row in rows}):
        part = [row for row in rows if row["roll"] == roll]
        mean, *ends = mean_interval([row["gain"] for row in part], [row["picture"] for row in part])
        total |= {f"gain_{roll}": mean, f"gain_{roll}_95": ends, f"gain_{roll}_min": min(row["gain"] for row in part)}
        total[f"finer_{roll}"] = float(np.mean([row["finer"] - row["field"] for row in part]))
        total[f"times_{roll}"] = float(np.median([row["times"] for row in part]))
    return total


def true_field(case: RotationCase) -> gpudeblur.KernelField:
    """The field of the case's path, or of its kernel."""
    if not len(case.path):
        return gpudeblur.KernelField(case.kernel[None, None], case.blurred.shape)
    return rotation_field(case.path, case.focal, case.blurred.shape, TRUE_SIZE)


def drawing(
    case: RotationCase,
    pictures: Mapping[str, np.ndarray],
    psnr: Mapping[str, float],
    kernels: Mapping[str, gpudeblur.KernelField | np.ndarray],
) -> list[SheetRow]:
    """Two rows of a contact sheet: the sharp photograph and `pictures` with their PSNR; their kernels, in one scale."""
    points = node_points((3, 3), case.sharp.shape)
    grids = {
        name: kernel.at(points) if isinstance(kernel, gpudeblur.KernelField) else kernel[None, None]
        for name, kernel in kernels.items()
    }
    side = max(max(support_sides(grid)) for grid in grids.values())
    factor = max(1, case.sharp.shape[1] // (3 * (side + 1)))
    shown = {name: gpudeblur.show_kernels(gpudeblur.KernelField(fit_size(grid, (side, side)), case.sharp.shape))
             for name, grid in grids.items()}  # fmt: skip
    return [
        (
            [case.name, *(f"{name} {psnr[name]:.2f} dB" for name in pictures)],
            [enlarged(image, 1) for image in (case.sharp, *pictures.values())],
        ),
        ([], [None, *(enlarged(shown[name] / 255, factor) if name in shown else None for name in pictures)]),
    ]


def totals(rows: Sequence[Row]) -> Row:
    """What the bench reports of a set."""
    mean, *ends = mean_interval([row["gain"] for row in rows], [row["picture"] for row in rows])
    gains = np.array([row["gain"] for row in rows])
    total: Row = {"n": len(rows), "gain_mean": mean, "gain_mean_95": ends, "gain_min": float(gains.min())}
    total |= {"better": float((gains > 0).mean()), "kept": float(np.mean([row["kept"] == "rotation" for row in rows]))}
    for name in ("blurred", "uniform", "rotation", "true"):
        total[f"{name}_mean"] = float(np.mean([row[name] for row in rows]))
    for name, key in (("seconds", "s"), ("seconds_uniform", "s uniform")):
        total[f"{name}_median"] = float(np.median([row[key] for row in rows]))
    return total


def set_names(text: str) -> list[str]:
    """Names of SETS from a list with commas."""
    names = text.split(",")
    if unknown := {*names} - {*SETS}:
        raise argparse.ArgumentTypeError(f"no set {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    return names


def sheet_file(text: str) -> Path:
    """A path that a contact sheet can be written to: refused before the run, not after it."""
    path = Path(text)
    if path.suffix not in (".png", ".jpg") or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a .png or .jpg in a folder that exists, got {text!r}")
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", "jobs", "options", "device", "no-record")
    parser.add_argument(
        "--sets", type=set_names, default=DEFAULT_SETS, help="names with commas; default: all but koehler"
    )
    parser.add_argument("--split", choices=["val", "train"], default="val", help="tune on train only")
    parser.add_argument("--count", type=int, default=16, help="photographs")
    parser.add_argument("--focal", choices=["auto", "known"], default="auto")
    parser.add_argument("--sheet", type=sheet_file, metavar="FILE.png", help="draw some cases of each set but known")
    args = parser.parse_args(argv)
    if args.sheet and args.sets == ["known"]:
        parser.error("--sheet has nothing to draw of the set known; name another set as well")
    pair = Pair(args.options, args.focal == "known", args.device, args.sheet is not None)
    sheet_rows: list[SheetRow] = []
    for name in args.sets:
        rows, columns = [], KNOWN_COLUMNS if name == "known" else COLUMNS
        print(f"\n{name}\n\n{table([], columns)}", flush=True)
        for row in parallel(
            known_field if name == "known" else pair, SETS[name](args.data, args.split, args.count), args.jobs
        ):
            rows.append(row)
            print(table([row], columns).splitlines()[-1], flush=True)
        if not rows:
            parser.error(f"no photographs under {args.data}")
        drawings = [row.pop("drawing") for row in rows if "drawing" in row]
        sheet_rows += [line for lines in spread(drawings, SHEET_CASES) for line in lines]
        total = known_totals(rows) if name == "known" else totals(rows)
        print(", ".join(f"{key} {value:.3g}" for key, value in total.items() if isinstance(value, float)), flush=True)
        if not args.no_record:
            about = settings(args, "split", "count", "focal", "jobs", "device")
            each = [{key: None if value != value or value == math.inf else value for key, value in row.items()}
                    for row in rows]  # fmt: skip
            record("rotation", {"set": name, "options": args.options, **about, "totals": total, "rows": each})
    if args.sheet:
        sheet(sheet_rows).save(args.sheet)


if __name__ == "__main__":
    main()
