"""`gpudeblur.restoration` beside `skimage.restoration`: the same calls on the same picture, in turn, and how far apart.

    python bench/dropin.py [--sides 512] [--psf 15] [--repeats 15]

One thread, float32. scikit-image's camera, resized, with a random psf. CPU time of the process: medians over the
repetitions, and the median of the ratios of neighbours. Heap "fresh": malloc gives scikit-image's many temporary arrays
back to the system and asks for them again, as it does in a new process. "warm": it has seen a larger array freed, and
keeps them. "same rng": both draw the same random numbers, float64, which alone take as long as the floor that is
printed. Appends to results/dropin.jsonl.
"""

from __future__ import annotations

import timing  # before NumPy

# isort: split
import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from .evaluate import arguments, record, settings, table
from skimage import restoration as theirs
from throughput import bar

from gpudeblur import restoration as ours

COLUMNS = {"call": "", "heap": "", "theirs_ms": ".1f", "ours_ms": ".1f", "times": ".2f", "difference": ".1e"}
Call = Callable[[Any], Any]


def calls(image: np.ndarray, psf: np.ndarray) -> Iterator[tuple[str, Call, bool]]:
    """(title, a function of either module, whether both must give the same)."""
    yield "richardson_lucy, 30 iterations", lambda m: m.richardson_lucy(image, psf, 30), True
    yield "unsupervised_wiener", lambda m: m.unsupervised_wiener(image, psf)[0], False
    yield "unsupervised_wiener, same rng", lambda m: m.unsupervised_wiener(image, psf, rng=0)[0], True
    yield "wiener", lambda m: m.wiener(image, psf, 0.1), True


def measure(title: str, call: Call, same: bool, backend: timing.Host, repeats: int) -> dict[str, Any]:
    difference = float(np.abs(call(ours) - call(theirs)).max()) if same else float("nan")
    pairs = [tuple(backend.once(lambda m=module: call(m))[1] for module in (theirs, ours)) for _ in range(repeats)]
    slow, fast = (1e3 * statistics.median(one) for one in zip(*pairs, strict=True))
    times = statistics.median(a / b for a, b in pairs)
    return {"call": title, "theirs_ms": slow, "ours_ms": fast, "times": times, "difference": difference}


def draws_ms(side: int, backend: timing.Host, image: np.ndarray, psf: np.ndarray) -> float:
    """The random numbers of one call with a rng, alone."""
    count = len(theirs.unsupervised_wiener(image, psf, rng=0)[1]["noise"]) - 1
    host = np.random.default_rng(0)

    def work() -> None:
        for _ in range(2 * count):
            host.standard_normal((side, side // 2 + 1))

    return 1e3 * backend.time(work, seconds=0.5).cpu


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "no-record")
    parser.add_argument("--sides", type=int, nargs="+", default=[512], help="of the square picture")
    parser.add_argument("--psf", type=int, default=15, help="side of the point spread function")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args(argv)
    from skimage.data import camera
    from skimage.transform import resize

    backend, rows, floors = timing.Host(), [], {}
    psf = np.random.default_rng(0).random((args.psf, args.psf), np.float32)
    psf /= psf.sum()
    pictures = {side: resize(camera(), (side, side)).astype(np.float32) for side in args.sides}
    for heap in ("fresh", "warm"):
        if heap == "warm":
            kept = np.ones((1 << 21) + 1)  # 16 MB
            del kept
        for side, image in pictures.items():
            for title, call, same in calls(image, psf):
                row = measure(f"{title}, {side}", call, same, backend, args.repeats)
                rows.append({**row, "heap": heap})
            floors[side] = draws_ms(side, backend, image, psf)
    print(table(rows, COLUMNS))
    print(f"\nfloor of unsupervised_wiener with the same rng: {floors} ms")
    worst = {
        name: min(row["times"] for row in rows if row["call"].startswith(f"{name}, {args.sides[0]}"))
        for name in ("richardson_lucy, 30 iterations", "unsupervised_wiener")
    }
    bars = [bar(f"{name}, over scikit-image's: times", value, 2, least=True) for name, value in worst.items()]
    print("\n" + "\n".join(map(str, bars)))
    if not args.no_record:
        line = {**settings(args, "sides", "psf", "repeats"), "load_average": os.getloadavg()[0]}
        record("dropin", {**line, "rows": rows, "floor_ms": floors, "bars": bars})


if __name__ == "__main__":
    main()
