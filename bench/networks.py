"""The networks: those that restore faces, and the classifier behind the learned prior [Li2018].

    python -m bench networks faces --data DATA ...                             see faces --help
    python -m bench networks accuracy --pictures DIR
    python -m bench networks runtime [--device cuda] [--repeats 1] [--sizes 1]

The last two say how well the classifier tells blurred from clear pictures, and what it costs.

accuracy ([Li2018] Fig. 10a): share of clear and blurred pictures classified right, over the factor by which they were
reduced; DIR is the val folder that `python -m bench.training.classifier_data` makes. runtime (Table 2): seconds for the
kernel of 25 px with and without the learned prior, one start and the defaults. Whether the kernels are better is a
question for `python -m bench quality` with a variant that has a "prior" (Fig. 10b).

Each appends a line to results/networks.jsonl.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpudeblur as gd
from gpudeblur.networks.bridge import torch_module
from gpudeblur.networks.classifier import data, evaluation

from .cases import blurred_camera
from .evaluate import Row, arguments, record, settings

SCALES = (1.0, 0.7071, 0.5, 0.3536, 0.25, 0.1768, 0.125, 0.0884, 0.0625)  # the paper goes down to 1 / 16
MIN_SIDE = 8  # pixels; smaller pictures are not classified
SHAPES = ((255, 255), (600, 600), (800, 800))
# One start without the smooth prior: objective (4) of the paper and the steps that minimise it.
ALONE: dict[str, Any] = {"starts": ("wide",), "smooth_weight": 0.0}


def accuracy(args: Any) -> list[Row]:
    prior, rows = gd.priors.DiscriminativePrior(weights=args.weights_file), []
    for path in sorted(folder for folder in args.pictures.iterdir() if folder.is_dir()):
        folder = data.load_folder(path)
        side = min(min(picture.shape) for picture in folder.images)
        scales = [scale for scale in SCALES if scale * (side - 51) >= MIN_SIDE]
        for scale, result in evaluation.evaluate(prior.probability, folder, scales=scales).items():
            right = {"clear_right": (result.clear < 0.5).mean(), "blurred_right": (result.blurred > 0.5).mean()}
            row = {"pictures": path.name, "n": 2 * len(folder.images), "scale": scale}
            rows.append({**row, "accuracy": result.accuracy, "ratio": result.ratio, **right})
            print(rows[-1], flush=True)
    return rows


def runtime(args: Any) -> list[Row]:
    rows = []
    torch_module().set_num_threads(2)
    prior = gd.priors.DiscriminativePrior(weights=args.weights_file)
    methods = {
        "one start, L0 alone": gd.TwoStepOptions(**ALONE),
        "one start, learned prior at all scales": gd.TwoStepOptions(**ALONE, prior=prior, finest_prior=True),
        "defaults": gd.TwoStepOptions(),
        "defaults, learned prior": gd.TwoStepOptions(prior=prior),
    }
    for shape in SHAPES[: args.sizes]:
        blurred = blurred_camera(shape, 25)
        for label, options in methods.items():
            seconds = []
            for _ in range(1 + args.repeats):  # the first compiles and loads
                begin, cpu = time.perf_counter(), time.process_time()
                gd.estimate_kernel(blurred, 25, options=options, device=args.device)  # brings the kernels here
                seconds.append((time.perf_counter() - begin, time.process_time() - cpu))
            wall, cpu = np.median(seconds[1:], axis=0).tolist()
            rows.append({"method": label, "picture": shape, "seconds": wall, "cpu_seconds": cpu})
            print(rows[-1], flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["faces"]:
        from . import faces

        faces.main(argv[1:])
        return
    parser = arguments(__doc__, "device", "no-record")
    parser.add_argument("kind", choices=["accuracy", "runtime"])
    parser.add_argument("--pictures", type=Path, help="accuracy: folder of folders of clear pictures")
    parser.add_argument("--weights-file", type=Path, help="other weights than the package's")
    parser.add_argument("--repeats", type=int, default=3, help="runtime: the median of so many")
    parser.add_argument("--sizes", type=int, default=len(SHAPES), help="runtime: how many of the sizes")
    args = parser.parse_args(argv)
    rows = {"accuracy": accuracy, "runtime": runtime}[args.kind](args)
    if not args.no_record:
        record("networks", {"kind": args.kind, **settings(args, "device", "repeats"), "rows": rows})


if __name__ == "__main__":
    main()
