"""A report as a page in one file: each picture before and after under a slider, its figures, and what failed.

Beside the figures a picture is shown in its own pixels: reduced, a blurred one looks sharp. What is larger than the
room on the page is cut, where it has the most detail, and the whole is beside it, small.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..images.comparison import to_levels
from ..images.files import check_output, read_image, read_kernel
from ..images.kernel_field import show_kernels
from ..images.output import whole_file
from ..images.pages import data_uri, style
from ..images.stored_file import stored_file
from ..images.white import assess_white
from .folders import FIGURES, Outcome
from .journal import JOURNAL_NAME, read_lines
from .report import LOW_CONFIDENCE, left_out_text, strength_text
from .score import Score

HTML_SUFFIXES = (".html", ".htm")
TEMPLATE = Path(__file__).with_name("report.html")
# Characters of the pictures of a page, and of one picture on it with its kernel: a page of 1,000 and more has less for
# each. A picture has at least `SIDES[-1]` pixels.
MAX_PAGE, MAX_ROW = 85e6, 85e3
SIDES = (480, 400, 320, 240, 200, 160, 120, 96, 64)  # of what is shown, in pixels; the first that has room
OVERVIEW_SIDE = 128
MIN_SHOWN = 320  # pixels on the screen: those of smaller pictures are enlarged to squares
BLOCK = 16  # pixels, the grid of the places that may be shown
WEBP: dict[str, Any] = {"form": "WEBP", "quality": 80, "method": 2}


@dataclass(frozen=True)
class Figure:
    """A figure of the rows: the key of a row's `figures`, its name, its text, and how rows are sorted by it."""

    key: str
    name: str
    text: Callable[[float], str]
    sorting: str
    is_rising: bool


@dataclass(frozen=True)
class Row:
    """A picture of the page. `rank` says which come first, the lowest, and is what the filter asks."""

    name: str
    status: str
    rank: float
    before: str = ""  # files
    after: str = ""
    kernel: str = ""
    error: str = ""
    remark: str = ""
    figures: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What a page shows: `facts` by their names, `rows`, and (name, reason) of what was left out."""

    title: str
    facts: dict[str, str]
    rows: Sequence[Row]
    left_out: Sequence[tuple[str, str]]
    figures: Sequence[Figure]
    filter_name: str  # of what `rank` is
    worst: str  # the name of the order by rank, and of its reverse
    best: str


RESULT_FIGURES = (
    Figure("confidence", "confidence", "{:.2f}".format, "", True),  # the rank
    Figure("strength", "strength", strength_text, "least strength first", True),
    Figure("gamma", "gamma", "{:g}".format, "", True),
    Figure("seconds", "seconds", "{:.1f}".format, "slowest first", False),
)
SCORE_FIGURES = (
    Figure("blurred", "blurred, probability", "{:.2f}".format, "", True),
    Figure("reduction", "looks sharp at", lambda factor: f"1/{factor:.1f}", "most blur first", False),
)


def page_template() -> Any:
    """The template of the page; raises ImportError without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            f"a report in HTML needs jinja2, which cannot be imported ({error}); pip install 'gpudeblur[report]'"
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text("utf-8"))


def results_page(outcomes: Iterable[Outcome], facts: dict[str, str]) -> Page:
    """The page of `gpudeblur batch`: failures and the lowest confidence first."""
    outcomes = list(outcomes)
    rows = []
    for outcome in outcomes:
        if outcome.status == "left out":
            continue
        confidence, is_failed = outcome.confidence, outcome.status == "failed"
        rank = -1.0 if is_failed else 1.0 if confidence is None else confidence
        is_low = not is_failed and confidence is not None and confidence < LOW_CONFIDENCE
        rows.append(
            Row(
                outcome.source,
                outcome.status,
                rank,
                before=outcome.source,
                after="" if is_failed else outcome.output,
                kernel=outcome.kernel or "",
                error=outcome.error,
                remark="Low confidence: the kernel is a guess, or the network may not have helped." if is_low else "",
                figures={name: getattr(outcome, name) for name in FIGURES},
            )
        )
    left_out = [(outcome.source, outcome.reason) for outcome in outcomes if outcome.status == "left out"]
    facts = _counts(rows, left_out_text(outcomes)) | facts
    return _page("Deblurred pictures", facts, rows, left_out, RESULT_FIGURES, "Confidence", ("worst", "best"))


def scores_page(scores: Iterable[Score], facts: dict[str, str]) -> Page:
    """The page of `gpudeblur score`: the pictures that are most likely blurred first."""
    scores = list(scores)
    rows = [
        Row(
            score.source,
            score.status,
            -1.0 if score.blurred is None else 1 - score.blurred,
            before=score.source,
            error=score.error,
            figures={"blurred": score.blurred, "reduction": score.reduction},
        )
        for score in scores
        if score.status != "left out"
    ]
    left_out = [(score.source, score.reason) for score in scores if score.status == "left out"]
    facts = _counts(rows, left_out_text(scores)) | facts
    names = ("most likely blurred", "most likely sharp")
    return _page("Blurred pictures", facts, rows, left_out, SCORE_FIGURES, "Probability that it is sharp", names)


def _page(
    title: str,
    facts: dict[str, str],
    rows: list[Row],
    left_out: list[tuple[str, str]],
    figures: Sequence[Figure],
    filter_name: str,
    orders: tuple[str, str],
) -> Page:
    rows.sort(key=lambda row: (row.rank, row.name))
    worst, best = (f"{order} first" for order in orders)
    return Page(title, facts, rows, left_out, figures, filter_name, worst, best)


def _counts(rows: Sequence[Row], left_out: str) -> dict[str, str]:
    statuses = Counter(row.status for row in rows)
    pictures = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    return {"pictures": pictures or "none"} | ({"left out": left_out} if left_out else {})


def journal_page(folder: Path) -> Page:
    """The page of a folder that `gpudeblur batch` has written, from its journal.

    Raises
    ------
    FileNotFoundError, ValueError
        The folder has no journal, or no picture is in it.
    """
    journal = folder / JOURNAL_NAME
    if not journal.is_file():
        raise FileNotFoundError(
            f"DIR must be the output folder of gpudeblur batch, got {folder} without the file {JOURNAL_NAME}; name "
            "another"
        )
    lines: dict[str, dict[str, Any]] = {}
    runs: dict[str, str] = {}  # command: version
    left_out = ""
    for line in read_lines(journal):
        if line["status"] == "run":
            runs[str(line.get("command"))] = str(line.get("version"))
            left_out = str(line.get("left_out", ""))
        else:
            lines[line["output"]] = line
    if not lines:
        raise ValueError(f"DIR must have results, got a journal without a picture in {folder}; run gpudeblur batch")
    outcomes = []
    for output, line in lines.items():
        status, error, is_begun = line["status"], str(line.get("error") or ""), line["status"] == "writing"
        figures: dict[str, Any] = {name: line.get(name) for name in FIGURES}
        outcomes.append(
            Outcome(
                str(line.get("source", "")),
                str(folder / output),
                line.get("kernel"),
                "failed" if is_begun else status,
                "the run ended while this was written; the same command does it again" if is_begun else error,
                **figures,
            )
        )
    facts = {"left out by the last run": left_out} if left_out else {}
    facts["version"] = ", ".join(sorted({str(line.get("version", "?")) for line in lines.values()}))
    if runs:
        facts["command"] = "\n".join(runs)
    return results_page(outcomes, facts)


def write_page(path: Path, page: Page) -> None:
    """Write a page, whole or not at all. One picture at a time is in memory.

    Raises
    ------
    ImportError
        jinja2 is missing.
    OSError, ValueError
        As `check_output`; or the file cannot be written, which the message says.
    """
    template = page_template()
    target = check_output(path, suffixes=HTML_SUFFIXES)
    room = min(MAX_ROW, MAX_PAGE / max(1, len(page.rows)))
    facts = page.facts | {"made": time.strftime("%Y-%m-%d %H:%M")}
    root = _common_folder(page.rows)
    if root:
        facts = {"folder": _printable(root)} | facts
    values = {
        "page": page,
        "facts": {name: [_printable(line) for line in text.splitlines()] for name, text in facts.items()},
        "statuses": sorted({row.status for row in page.rows}),
        "left_out": ((_printable(name), reason) for name, reason in page.left_out),
        "cards": (_card(row, page.figures, root, target.absolute().parent, room) for row in page.rows),
        "style": style(),
    }
    try:
        with whole_file(target) as file:
            for text in template.generate(values):
                file.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise OSError(f"report {path} cannot be written ({error}); make room, or name another file") from error


def _printable(name: str) -> str:
    """The name of a file with a mark for each byte that is not UTF-8."""
    return re.sub("[\ud800-\udfff]", "\ufffd", name)


def _common_folder(rows: Sequence[Row]) -> str:
    """The folder in which all pictures are; "" where there is none."""
    try:
        return os.path.commonpath({os.path.dirname(os.path.abspath(row.name)) for row in rows})
    except ValueError:  # no rows, or several drives of Windows
        return ""


def _card(row: Row, figures: Sequence[Figure], root: str, folder: Path, room: float) -> dict[str, Any]:
    """What the template says of a row. Its name is below `root`, its links are relative to `folder`."""
    name = os.path.relpath(row.name, root) if root else row.name
    shown, notes = _pictures(row, room)
    label = "picture" if row.status == "scored" else "before"
    values = ((figure, row.figures.get(figure.key)) for figure in figures)
    texts = {figure.name: figure.text(value) for figure, value in values if value is not None}
    return {
        "name": _printable(name),
        "row": row,
        "label": label,
        "figures": texts,
        "notes": [_printable(note) for note in ([row.error] if row.error else []) + notes],
        "links": {
            name: link
            for name, path in ((label, row.before), ("after", row.after))
            if path and (link := _link(path, folder))
        },
        **shown,
    }


def _link(path: str, folder: Path) -> str:
    if "://" in path:  # no address for a browser
        return ""
    try:
        return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    except ValueError:  # on another drive of Windows
        return ""


def _pictures(row: Row, room: float) -> tuple[dict[str, Any], list[str]]:
    """(pictures of a row for the template, notes on what cannot be shown)."""
    notes: list[str] = []

    def read(what: str, path: str, function: Callable[[str], Any]) -> Any:
        try:
            return function(path) if path else None
        except Exception as error:  # noqa: BLE001 - whatever a file raises is said of it
            if not (row.error and what == "picture"):  # which says so already
                notes.append(f"The {what} cannot be shown: {error}")
            return None

    before = read("picture", row.before, lambda path: read_image(stored_file(path) if "://" in path else path).pixels)
    after = read("result", row.after, lambda path: read_image(path).pixels)
    kernel = None
    if row.kernel and os.path.exists(row.kernel):
        kernel = read("kernel", row.kernel, lambda path: np.asarray(show_kernels(read_kernel(path))))
    if before is not None and after is not None and before.shape[:2] != after.shape[:2]:
        sizes = " and ".join(f"{pixels.shape[1]} x {pixels.shape[0]}" for pixels in (before, after))
        notes.append(f"Picture and result have other sizes, {sizes}: one of them was changed since.")
        before = None
    pictures = [pixels for pixels in (before, after) if pixels is not None]
    shown: dict[str, Any] = {"before": "", "after": "", "overview": "", "kernel": ""}
    if kernel is not None:
        shown["kernel"], shown["kernel_width"] = data_uri(kernel), kernel.shape[1]
        room -= len(shown["kernel"])
    if pictures:
        texts, overview, (height, width) = _encoded(pictures, room)
        shown |= dict(zip([n for n, p in (("before", before), ("after", after)) if p is not None], texts, strict=True))
        shown |= {"overview": overview, "width": width, "height": height}
        shown["zoom"] = max(1, MIN_SHOWN // max(width, height))
        shown["size"] = f"{pictures[0].shape[1]} x {pictures[0].shape[0]}"
    return shown, notes


def _encoded(pictures: Sequence[np.ndarray], room: float) -> tuple[list[str], str, tuple[int, int]]:
    """(the window of each picture as a data URI, the whole of the last one, small, (height, width) of the window)."""
    whites, detail = _whites(pictures), detail_of_blocks(pictures[-1])
    (height, width), density = pictures[-1].shape[:2], 0.0
    for side in SIDES:
        shape, overview = (min(side, height), min(side, width)), ""
        # A smaller window has no less detail a pixel.
        if density * shape[0] * shape[1] > room and side != SIDES[-1]:
            continue
        top, left = (0, 0) if shape == (height, width) else most_detailed(detail, (height, width), shape)
        windows = [pixels[top : top + shape[0], left : left + shape[1]] for pixels in pictures]
        texts = [data_uri(to_levels(*window), **WEBP) for window in zip(windows, whites, strict=True)]
        if shape != (height, width):
            overview = data_uri(_overview(pictures[-1], whites[-1], (top, left), shape), **WEBP)
        density = sum(map(len, texts)) / (shape[0] * shape[1])
        if len(overview) + sum(map(len, texts)) <= room:
            break
    return texts, overview, shape


def _whites(pictures: Sequence[np.ndarray]) -> list[float]:
    """The values that are shown white: one for both pictures, unless their dtypes differ."""
    whites = [_white(pixels) for pixels in pictures]
    return [whites[0]] * len(pictures) if pictures[0].dtype == pictures[-1].dtype else whites


def _white(pixels: np.ndarray) -> float:
    if pixels.dtype == np.uint8:
        return 255.0
    finite = np.nan_to_num(pixels, posinf=0, neginf=0) if pixels.dtype.kind == "f" else pixels
    return float(assess_white(finite, None, channel_axis=-1 if pixels.ndim == 3 else None)[0])


def detail_of_blocks(pixels: np.ndarray) -> np.ndarray:
    """(H // BLOCK, W // BLOCK): the sum over each block of by how much pixels differ from their neighbors."""
    gray = pixels if pixels.ndim == 2 else pixels[..., pixels.shape[-1] // 2]
    gray = np.nan_to_num(gray.astype(np.float32), posinf=0, neginf=0)
    rows, columns = (side // BLOCK for side in gray.shape)
    steps = np.zeros_like(gray)
    steps[:-1] += abs(np.diff(gray, axis=0))
    steps[:, :-1] += abs(np.diff(gray, axis=1))
    return steps[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).sum(axis=(1, 3))


def most_detailed(detail: np.ndarray, full: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the window of `shape` with the largest sum of `detail` in a picture of the `full` shape."""
    sums = np.pad(detail.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    h, w = (min(side // BLOCK, count) for side, count in zip(shape, detail.shape, strict=True))
    ends = len(sums) - h, sums.shape[1] - w
    window = sums[h:, w:] - sums[: ends[0], w:] - sums[h:, : ends[1]] + sums[: ends[0], : ends[1]]
    top, left = np.unravel_index(int(window.argmax()), window.shape)
    return min(int(top) * BLOCK, full[0] - shape[0]), min(int(left) * BLOCK, full[1] - shape[1])


def _overview(pixels: np.ndarray, white: float, corner: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """The whole picture, small, with a frame around the window."""
    from PIL import Image, ImageDraw

    # A stride first: a large picture must not be converted whole for a small one.
    step = max(1, max(pixels.shape[:2]) // (4 * OVERVIEW_SIDE))
    picture = Image.fromarray(to_levels(pixels[::step, ::step], white))
    picture.thumbnail((OVERVIEW_SIDE, OVERVIEW_SIDE))
    factors = [side / full for side, full in zip(reversed(picture.size), pixels.shape[:2], strict=True)]
    (top, left), (height, width) = (
        [round(value * factor) for value, factor in zip(pair, factors, strict=True)] for pair in (corner, shape)
    )
    right, bottom = min(left + width, picture.width - 1), min(top + height, picture.height - 1)
    ImageDraw.Draw(picture).rectangle((left, top, right, bottom), outline=(255, 255, 255))
    return np.asarray(picture)
