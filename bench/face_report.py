"""How `python -m bench networks faces` shows its figures: rows of tables, the papers' own, and contact sheets."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from .evaluate import Row, mean_interval
from .face_cases import TOGETHER, FaceCase
from .figures import enlarged

# Columns of a table: key of a row of totals, and its format; "KEY_95" are the ends of its interval.
COLUMNS = {
    "group": ("group", "s"),
    "method": ("method", "s"),
    "n": ("n", "d"),
    "PSNR": ("psnr", ".2f"),
    "gain": ("gain", "+.2f"),
    "worst": ("gain_min", "+.2f"),
    "worse": ("worse", ".0%"),
    "aligned gain": ("aligned_gain", "+.2f"),
    "worst aligned": ("aligned_gain_min", "+.2f"),
    "SSIM": ("ssim", ".3f"),
    "kernel": ("similarity", ".3f"),
    "to input": ("to_input", ".1f"),
    "least": ("to_input_min", ".1f"),
    "rank-1": ("recognized", ".0%"),
    "distance": ("distance", ".3f"),
    "features": ("features", ".3f"),
    "verified": ("verified", ".1%"),  # by the papers alone
    "ms": ("milliseconds", ".1f"),
    "CPU ms": ("cpu_milliseconds", ".1f"),
}
MEANS = ("psnr", "gain", "aligned_gain", "ssim", "similarity", "to_input", "recognized", "distance", "features")
WITH_INTERVALS = ("gain", "aligned_gain", "similarity", "recognized")
WITH_LEAST = ("gain", "aligned_gain", "to_input")
MIN_LOSS = 0.01  # dB

SHEET_BYTES = 300_000
ENLARGED, COLUMNS_OF_FACES, GAP = 2, 3, 8  # factor of a face; faces side by side; pixels between them
INSET = 48  # pixels of a kernel's side at most


# ------------------------------------------------------------------ totals
def totals(name: str, rows: Sequence[Row]) -> list[Row]:
    """A row for each group of the set and each method, groups in the order they came, then those over several."""
    groups = {group: [group] for group in dict.fromkeys(row["group"] for row in rows)}
    present = TOGETHER.get(name, {}).items()
    groups |= {group: list(parts) for group, parts in present if set(parts) <= groups.keys()}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    members = ((g, m, [r for r in rows if r["group"] in parts and r["method"] == m])
               for g, parts in groups.items() for m in methods)  # fmt: skip
    return [{"group": group, "method": method, **total(part)} for group, method, part in members if part]


def total(rows: Sequence[Row]) -> Row:
    """Means, their intervals, the worst; only of what was measured."""
    result: Row = {"n": len(rows)}
    for key, new in (("seconds", "milliseconds"), ("cpu_seconds", "cpu_milliseconds")):
        if measured := [row[key] for row in rows if row.get(key) is not None]:
            result[new] = 1e3 * float(np.median(measured))
    for key in MEANS:
        known = [row for row in rows if row.get(key) is not None]
        if not known:
            continue
        values, pictures = [float(row[key]) for row in known], [row["picture"] for row in known]
        result[key], *ends = mean_interval(values, pictures)
        if key in WITH_INTERVALS:
            result[f"{key}_95"] = ends
        if key in WITH_LEAST:
            result[f"{key}_min"] = min(values)
        if key == "gain":
            result["worse"] = float(np.mean(np.array(values) < -MIN_LOSS))
    return result


def print_table(name: str, lines: Sequence[Row]) -> None:
    """Markdown; columns without a figure are left out."""
    columns = {title: column for title, column in COLUMNS.items() if any(column[0] in line for line in lines)}
    print(f"\nset {name}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for line in lines:
        print(f"| {' | '.join(cell(line, *column) for column in columns.values())} |", flush=True)


def cell(line: Row, key: str, form: str) -> str:
    if key not in line:
        return ""
    ends = ", ".join(format(end, form) for end in line.get(f"{key}_95", ()))
    return format(line[key], form) + (f" [{ends}]" if ends else "")


# ------------------------------------------------------------------ the papers' figures
# Set whose table they stand in: (protocol, method, figures). [WangL2017] is DeepDeblur, [Qi2020] the enhancement GAN,
# [Lin2020] sketch synthesis. Figures without a baseline in the paper have no gain.
PAPERS: dict[str, list[tuple[str, str, Row]]] = {
    "A": [
        ("200 CelebA, 13 to 27 px, no noise named", "[Qi2020] table 1", {"psnr": 26.13, "ssim": 0.818}),
        ("200 CelebA, 13 to 27 px, no noise named", "DeblurGAN-v2, by [Qi2020]", {"psnr": 21.66, "ssim": 0.707}),
        ("200 Helen, 13 to 27 px, no noise named", "[Qi2020] table 1", {"psnr": 24.33, "ssim": 0.795}),
    ],
    "B": [("LFW and FaceScrub 112 x 96, Levin's kernels", "[WangL2017] table 5, mean", {"psnr": 25.63})],
    "C": [
        ("faces 112 x 96, 15 px, 45 degrees", "blurred, by [WangL2017]", {"psnr": 24.95, "gain": 0.0}),
        ("faces 112 x 96, 15 px, 45 degrees", "Krishnan, by [WangL2017]", {"psnr": 22.83, "gain": -2.12}),
        ("faces 112 x 96, 15 px, 45 degrees", "[WangL2017] table 4", {"psnr": 27.38, "gain": 2.43}),
    ],
    "F": [
        ("MultiPIE 240 x 200, 21 to 51 px", "[Lin2020]", {"psnr": 28.57, "ssim": 0.844}),
        ("Helen 240 x 200, 21 to 51 px", "[Lin2020]", {"psnr": 26.12, "ssim": 0.751}),
        ("CelebA 240 x 200, 21 to 51 px", "[Lin2020]", {"psnr": 24.92, "ssim": 0.859}),
        ("PubFig 240 x 200, 21 to 51 px", "[Lin2020]", {"psnr": 27.09, "ssim": 0.813}),
        ("CelebA 240 x 200, 21 to 51 px", "Pan 2016, by [Lin2020]", {"psnr": 20.62, "ssim": 0.601}),
        ("CelebA 240 x 200, 21 to 51 px", "Tao 2018, by [Lin2020]", {"psnr": 23.73, "ssim": 0.727}),
    ],
    "G": [
        ("verification of 50 LFW pairs, Levin's kernels", "[WangL2017] table 2, mean", {"verified": 0.9775}),
        ("verification of 50 LFW pairs, Levin's kernels", "Krishnan, by [WangL2017]", {"verified": 0.8825}),
    ],
    "H": [
        ("112 x 96, GTX 1080", "[WangL2017] table 1", {"milliseconds": 14.8}),
        ("112 x 96", "Pan 2014, by [WangL2017]", {"milliseconds": 10270.0}),
        ("240 x 200, GTX 1080", "[Lin2020]", {"milliseconds": 29.0}),
        ("240 x 200, i7 at 4.2 GHz", "Pan 2016, by [Lin2020]", {"milliseconds": 82120.0}),
    ],
}


def papers_of(name: str) -> Iterator[Row]:
    """Rows of the table of a set."""
    return ({"group": protocol, "method": method, **figures} for protocol, method, figures in PAPERS.get(name, []))


# ------------------------------------------------------------------ contact sheets
def sheet(faces: Sequence[tuple[FaceCase, np.ndarray, np.ndarray | None]]) -> bytes:
    """JPEG of faces: blurred, restored (with the kernel in a corner, where there is one), sharp; below `SHEET_BYTES`.

    All in one scale; the cases are of one kind, and differ in size by their kernels.
    """
    h, w = (ENLARGED * max(case.blurred.shape[axis] for case, _, _ in faces) for axis in (0, 1))
    columns = min(COLUMNS_OF_FACES, len(faces))
    rows = math.ceil(len(faces) / columns)
    page = Image.new("RGB", (columns * (3 * w + GAP) + GAP, rows * (h + GAP) + GAP), "white")
    for number, (case, image, kernel) in enumerate(faces):
        top, left = GAP + number // columns * (h + GAP), GAP + number % columns * (3 * w + GAP)
        for place, picture in enumerate((case.blurred, image, case.sharp)):
            drawn = enlarged(picture, ENLARGED)
            y, x = top + (h - drawn.height) // 2, left + place * w + (w - drawn.width) // 2
            page.paste(drawn, (x, y))
            if kernel is not None and place == 1:
                page.paste(enlarged(kernel / kernel.max(), max(1, INSET // max(kernel.shape))), (x, y))
    for quality in range(90, 0, -5):
        file = io.BytesIO()
        page.save(file, "JPEG", quality=quality)
        if file.tell() < SHEET_BYTES:
            break
    return file.getvalue()
