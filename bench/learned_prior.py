"""The learned prior of seed 3, measured as its paper does: Figures 10a, 10b and 13, Table 2.

    python bench/learned_prior.py accuracy --pictures DIR [--single WEIGHTS]
    python bench/learned_prior.py kernels --data DATA [--sets levin,natural-train] [--every 4] [--weights 0.004,1]
    python bench/learned_prior.py convergence --data DATA [--every 4]
    python bench/learned_prior.py runtime [--device cuda] [--batch 64]
    python bench/learned_prior.py responses --data DATA [--sets levin,text] [--every 8]
    python bench/learned_prior.py plots

accuracy (Fig. 10a): share of clear and blurred pictures told right, over the factor by which they were reduced; DIR is
`classifier_data.py`'s val. --single: weights trained without rescaling. kernels (Fig. 10b): error ratios with the L0
prior alone, with the learned one too, and with the coupling eta |x - u|^2 alone, and the mean differences with their
intervals; one start and objective (4), or with --whole the defaults, five starts and all; the same iterations. The
learned prior plays a part at the finest scale only with --options '{"finest_prior": true}', as it does in the paper.
--gradients 0 --halve-over 0 --eta 2 asks the network in each gradient step and at full size, and couples, as the paper
does.
convergence (Fig. 13): objective (4) and kernel similarity at the finest scale, iteration by iteration. runtime
(Table 2): seconds for the kernel. responses: what the classifier says to blurred, sharp and latent pictures, and how
far its step moves them, by scale, finest first (of those that it sees). Each appends a line to
results/learned_prior.jsonl; `plots` draws the last of each as results/learned_prior_*.svg.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cases import (
    Case,
    gray_picture,
    levin_cases,
    low_light_cases,
    make_case,
    name_seed,
    small_face_cases,
    text_cases,
    thinned,
)
from evaluate import Row, arguments, evaluate, mean_interval, parallel, record, results_folder, settings, summary, table
from quality import ER_CAP
from skimage.data import camera
from skimage.transform import resize

import gpudeblur as gd
from gpudeblur.blind.alternation import _solve, coarse_to_fine, has_gradients
from gpudeblur.blind.kernel_projection import normalize
from gpudeblur.blind.kernel_step import normal_equations, select_edges, selection_window, window_pixels
from gpudeblur.blind.latent import latent_step, objective
from gpudeblur.metrics import kernel_similarity
from gpudeblur.numerics.arrays import Workspace
from gpudeblur.numerics.boundary import pad_liu_jia
from gpudeblur.numerics.fourier import rfft2
from gpudeblur.numerics.toeplitz import zero_lag
from gpudeblur.synthesis import trajectory_kernel

SCALES = (1.0, 0.7071, 0.5, 0.3536, 0.25, 0.1768, 0.125, 0.0884, 0.0625)  # the paper goes down to 1 / 16
PRIOR = ("steps", "rate", "gradients", "downsample_above", "eta")  # arguments that are the prior's options
LEAST_SIDE = 8  # pixels; smaller pictures are not judged
# One start, without the smooth prior: what is left is objective (4) and the steps that minimise it.
ALONE: Mapping[str, Any] = {"starts": ("wide",), "smooth_weight": 0.0}
RUNTIMES = ((255, 255), (600, 600), (800, 800))


def train_cases(folder: Path, count: int = 8, side: int = 180) -> Iterator[Case]:
    """Crops of training photographs with trajectories of 15 to 27 px, 8 bit, in turn with and without 1 % noise."""
    paths = sorted((Path(folder) / "natural" / "train").glob("*.jpg"))
    for number, path in enumerate(paths[5 :: len(paths) // count][:count]):
        size = (15, 19, 23, 27)[number % 4]
        kernel = trajectory_kernel(size, rng=name_seed(f"{path.stem}_kernel"))
        sharp = gray_picture(path)[60 : 60 + side + size - 1, 60 : 60 + side + size - 1]
        noise = 0.01 * (number // 4 % 2)
        yield make_case(path.stem, sharp, kernel, noise=noise, quantise=True, picture=path.stem)


SETS = {
    "natural-train": train_cases,
    "levin": levin_cases,
    "text": text_cases,
    "low-light": low_light_cases,
    "small-faces": partial(small_face_cases, count=100),
}


# ------------------------------------------------------------------ Fig. 10a
def accuracy(args: Any) -> None:
    from gpudeblur.networks.classifier.network import data, evaluation

    networks = {"multi-scale": gd.priors.DiscriminativePrior(weights=args.weights_file)}
    if args.single is not None:
        networks["one scale"] = gd.priors.DiscriminativePrior(weights=args.single)
    rows: list[Row] = []
    for path in sorted(one for one in args.pictures.iterdir() if one.is_dir()):
        folder = data.load_folder(path)
        least = min(min(one.shape) for one in folder.pictures)
        kept = [scale for scale in SCALES if scale * (least - 51) >= LEAST_SIDE]
        for name, prior in networks.items():
            for scale, found in evaluation.judge(prior.probability, folder, scales=kept).items():
                rows.append(
                    {
                        "pictures": path.name, "n": 2 * len(folder.pictures), "training": name, "scale": scale,
                        "accuracy": found.accuracy, "ratio": found.ratio,
                        "clear_right": float((found.clear < 0.5).mean()),
                        "blurred_right": float((found.blurred > 0.5).mean()),
                    }
                )  # fmt: skip
    columns = {"pictures": "", "training": "", "scale": ".3f", "n": "", "accuracy": ".3f", "ratio": ".4f"}
    print(table(rows, columns | {"clear_right": ".3f", "blurred_right": ".3f"}))
    _record(args, "accuracy", {"rows": rows})


# ------------------------------------------------------------------ Fig. 10b
@dataclass(frozen=True)
class Still:
    """A prior that knows nothing: u = x. What it changes is what eta |x - u|^2 alone does."""

    weight: float
    eta_max: float

    def step(self, latent: Any, ratio: float) -> Any:
        return latent


@dataclass(frozen=True)
class Kernel:
    """The kernel of a case under some options and a prior, or none."""

    prior: gd.priors.Prior | None
    options: Mapping[str, Any]
    cache: Path | None

    def __call__(self, case: Case) -> Row:
        _one_thread()
        options = gd.TwoStepOptions(**self.options, prior=self.prior)
        began = time.perf_counter()
        kernel = gd.estimate_kernel(case.blurred, case.kernel.shape, options=options)
        seconds = time.perf_counter() - began
        (row,) = evaluate([(case, np.asarray(kernel, np.float64))], settings={"method": "sparse"}, cache=self.cache)
        return {**row, "seconds": seconds, "er_capped": min(row["er"], ER_CAP)}


def kernels(args: Any) -> None:
    chosen = {**({} if args.whole else ALONE), **args.options}
    for name in args.sets.split(","):
        cases = [case for case in thinned(SETS[name](args.data), args.every) if args.only in case.name]
        groups = [case.picture for case in cases]
        found: dict[str, Row] = {}
        rows: dict[str, list[Row]] = {}
        variants: dict[str, Any] = {"L0 alone": None}
        for weight in map(float, args.weights.split(",")):
            variants[f"coupling alone, weight {weight:g}"] = Still(weight, args.eta)
            variants[f"with the learned prior, weight {weight:g}"] = _prior(args, weight)
        for label, prior in variants.items():
            rows[label] = list(parallel(Kernel(prior, chosen, args.cache), cases, args.jobs))
            total = summary(rows[label], [row["seconds"] for row in rows[label]])
            total["er_capped"] = float(np.mean([row["er_capped"] for row in rows[label]]))
            print(name, label, {key: round(value, 3) for key, value in total.items()}, flush=True)
            over = {other: over_other(rows[label], rows[other], groups) for other in found}
            print(*(f"  over {other}: {row}" for other, row in over.items()), sep="\n", flush=True)
            er = {row["name"]: round(row["er"], 4) for row in rows[label]}
            found[label] = {"totals": total, "over": over, "er": er}
        _record(args, "kernels", {"set": name, "variants": found}, "every", "options", "whole", *PRIOR)


def over_other(rows: Sequence[Row], others: Sequence[Row], groups: Sequence[str]) -> Row:
    """Mean differences, case by case, with their 95 % intervals (mean, low, high)."""
    differences = {
        key: [row[key] - other[key] for row, other in zip(rows, others, strict=True)] for key in ("psnr", "er_capped")
    }
    return {key: [round(one, 3) for one in mean_interval(values, groups)] for key, values in differences.items()}


# ------------------------------------------------------------------ why
class Spy:
    """A prior that notes what the classifier says to the latent pictures, and how far its step moves them."""

    def __init__(self, prior: gd.priors.DiscriminativePrior) -> None:
        self.prior, self.weight, self.eta_max = prior, prior.weight, prior.eta_max
        self.seen: list[tuple[int, float, float]] = []

    def step(self, latent: Any, ratio: float) -> Any:
        u = self.prior.step(latent, ratio)
        moved = float(np.sqrt(((u - latent) ** 2).mean()))
        self.seen.append((latent.shape[-1], float(self.prior.probability(latent)[0]), moved))
        return u


def responses(args: Any) -> None:
    _one_thread()
    prior = _prior(args, args.weight)
    rows: list[Row] = []
    for name in args.sets.split(","):
        cases = [case for case in thinned(SETS[name](args.data), args.every) if args.only in case.name]
        f = np.array([[float(prior.probability(one)) for one in (case.blurred, case.sharp)] for case in cases])
        latent: dict[int, list[float]] = {}  # by the number of scales to the finest
        moved: dict[int, list[float]] = {}
        for case in cases:
            spy = Spy(prior)
            options = gd.TwoStepOptions(**{**ALONE, **args.options}, prior=spy)
            gd.estimate_kernel(case.blurred, case.kernel.shape, options=options)
            widths = sorted({width for width, _, _ in spy.seen}, reverse=True)
            for level, width in enumerate(widths):
                latent.setdefault(level, []).extend(value for w, value, _ in spy.seen if w == width)
                moved.setdefault(level, []).extend(value for w, _, value in spy.seen if w == width)
        row = {
            "set": name, "n": len(cases), "f_blurred": float(np.median(f[:, 0])), "f_sharp": float(np.median(f[:, 1])),
            "sharper_lower": float((f[:, 1] < f[:, 0]).mean()),
            "f_latent": {level: float(np.median(values)) for level, values in sorted(latent.items())},
            "moved": {level: float(np.median(values)) for level, values in sorted(moved.items())},
        }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    _record(args, "responses", {"rows": rows}, "every", "options", "weight", *PRIOR)


# ------------------------------------------------------------------ Fig. 13
def track(case: Case, prior: Any, count: int, options: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Objective (4) and kernel similarity after each iteration at the finest scale."""
    chosen = gd.TwoStepOptions(**{**ALONE, **options}, prior=prior)
    size = case.kernel.shape
    stack = case.blurred[None].astype(np.float32)
    kernel = coarse_to_fine(stack, size, chosen, lambda _: None)
    picture = pad_liu_jia(stack, (size[0] - 1, size[1] - 1))
    hat, window = rfft2(picture), selection_window(stack.shape[-2:], size)
    energies, similarities = [], []
    gradient_weight = 4e-3
    work = Workspace(picture)
    for _ in range(count):
        latent = latent_step(
            picture,
            kernel,
            blurred_hat=hat,
            gradient_weight=gradient_weight,
            prior=prior,
            beta_max=chosen.finest_beta_max,
        )
        votes = select_edges(latent, window, chosen.edge_fraction[1], work=work)
        a, b = normal_equations(votes, latent, hat, size, work=work)
        kernel = normalize(
            _solve(a, b, kernel, window_pixels(window), chosen, work), has_gradients(a, window_pixels(window))
        )
        value = float(objective(latent, kernel, hat, gradient_weight=gradient_weight, threshold=1e-5)[0])
        value += chosen.kernel_weight * float(zero_lag(a)[0]) * float((kernel**2).sum())
        if prior is not None:
            value += prior.weight * float(prior.probability(latent)[0])
        energies.append(value)
        similarities.append(kernel_similarity(kernel[0], case.kernel))
    return energies, similarities


def convergence(args: Any) -> None:
    lines = {}
    _one_thread()
    for label, prior in (("L0 alone", None), ("with the learned prior", _prior(args, args.weight))):
        cases = [case for case in thinned(levin_cases(args.data), args.every) if args.only in case.name]
        found = np.array([track(case, prior, args.iterations, args.options) for case in cases])
        relative = found[:, 0] / found[:, 0, :1]  # pictures differ by their energy
        lines[label] = {
            "energy": relative.mean(0).round(5).tolist(),
            "similarity": found[:, 1].mean(0).round(5).tolist(),
        }
        for name, values in lines[label].items():
            print(label, name, [round(one, 3) for one in values[:: max(1, args.iterations // 10)]], flush=True)
    _record(
        args,
        "convergence",
        {"n": len(cases), "lines": lines},
        "every",
        "options",
        "weight",
        "iterations",
        *PRIOR,
    )


# ------------------------------------------------------------------ Table 2
def runtime(args: Any) -> None:
    from gpudeblur.networks import bridge

    rows: list[Row] = []
    sharp = camera() / 255.0
    kernel = trajectory_kernel(25, rng=1)
    bridge.torch_module().set_num_threads(args.threads)
    prior = _prior(args, args.weight)
    methods = {
        "one start, L0 alone": gd.TwoStepOptions(**ALONE),
        "one start, learned prior at all scales": gd.TwoStepOptions(**ALONE, prior=prior, finest_prior=True),
        "defaults": gd.TwoStepOptions(),
        "defaults, learned prior": gd.TwoStepOptions(prior=prior),
    }
    for h, w in RUNTIMES[: args.sizes]:
        case = make_case("runtime", resize(sharp, (h + 24, w + 24), order=3), kernel, quantise=True)
        pictures = np.repeat(case.blurred[None].astype(np.float32), args.batch, axis=0)
        for label, options in methods.items():
            if args.only not in label:
                continue
            seconds = []
            for _ in range(1 + args.repeats):  # the first compiles and loads
                began, worked = time.perf_counter(), time.process_time()
                gd.estimate_kernel(pictures, 25, options=options, device=args.device)  # which brings the kernels here
                seconds.append((time.perf_counter() - began, time.process_time() - worked))
            wall, cpu = np.median(seconds[1:], axis=0)
            row = {"method": label, "picture": f"{h} x {w}", "pictures": args.batch, "seconds": float(wall)}
            rows.append({**row, "cpu_seconds": float(cpu), "pictures_a_second": args.batch / float(wall)})
            print(rows[-1], flush=True)
    columns = {"method": "", "picture": "", "pictures": "d", "seconds": ".2f", "cpu_seconds": ".2f"}
    print(table(rows, columns | {"pictures_a_second": ".2f"}))
    _record(args, "runtime", {"rows": rows}, "weight", "threads", "repeats", "batch", "device", *PRIOR)


# ------------------------------------------------------------------ results
def _prior(args: Any, weight: float) -> gd.priors.DiscriminativePrior:
    return gd.priors.DiscriminativePrior(
        weight,
        rate=args.rate,
        steps=args.steps,
        gradients=args.gradients or None,
        eta_max=args.eta,
        downsample_above=args.downsample_above or None,
        weights=args.weights_file,
    )


def _one_thread() -> None:
    from gpudeblur.networks import bridge

    bridge.torch_module().set_num_threads(1)


def _record(args: Any, kind: str, line: Row, *names: str) -> None:
    if not args.no_record and not args.only:
        record("learned_prior", {"kind": kind, **settings(args, *names), **line})


def plots(args: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gpudeblur"
    import matplotlib.pyplot as plt

    folder = results_folder()
    last: dict[str, Row] = {}
    for line in map(json.loads, (folder / "learned_prior.jsonl").read_text().splitlines()):
        last[line["kind"] if line["kind"] != "kernels" else f"kernels {line['set']}"] = line

    def save(figure: Any, name: str) -> None:
        figure.tight_layout()
        figure.savefig(folder / f"learned_prior_{name}.svg", metadata={"Date": None})

    if "accuracy" in last:
        rows = last["accuracy"]["rows"]
        figure, axis = plt.subplots(figsize=(6, 4))
        kinds = sorted({(row["pictures"], row["training"]) for row in rows})
        for pictures, training in kinds:
            points = [
                (1 / row["scale"], row["accuracy"])
                for row in rows
                if (row["pictures"], row["training"]) == (pictures, training)
            ]
            style = "o-" if training == "multi-scale" else "x--"
            colour = f"C{sorted({one for one, _ in kinds}).index(pictures)}"
            axis.semilogx(*zip(*points, strict=True), style, base=2, color=colour, label=f"{pictures}, {training}")
        axis.set(xlabel="reduced by", ylabel="accuracy", ylim=(0.35, 1.02))
        axis.legend(fontsize=7)
        save(figure, "accuracy")
    if "kernels levin" in last:
        figure, axis = plt.subplots(figsize=(5, 4))
        for label, found in last["kernels levin"]["variants"].items():
            er = np.sort(list(found["er"].values()))
            axis.step(er, np.arange(1, len(er) + 1) / len(er), where="post", label=label)
        axis.set(xlabel="error ratio", ylabel="share of Levin's pictures", xlim=(1, 5))
        axis.legend(fontsize=7)
        save(figure, "kernels")
    if "convergence" in last:
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
        for label, found in last["convergence"]["lines"].items():
            for axis, name in zip(axes, ("energy", "similarity"), strict=True):
                axis.plot(range(1, len(found[name]) + 1), found[name], label=label)
                axis.set(xlabel="iteration at the finest scale", ylabel=name)
        axes[0].legend(fontsize=7)
        save(figure, "convergence")


def main(argv: Sequence[str] | None = None) -> None:
    benches = {one.__name__: one for one in (accuracy, kernels, responses, convergence, runtime, plots)}
    parser = arguments(
        __doc__, "data", "jobs", "cache", "options", "device", "only", "no-record",
        data={"required": False}, jobs={"default": 0},
    )  # fmt: skip
    parser.add_argument("bench", choices=benches)
    parser.add_argument("--pictures", type=Path, help="accuracy: folder of folders of clear pictures")
    parser.add_argument("--weights-file", type=Path, help="other weights than the package's")
    parser.add_argument("--single", type=Path, help="accuracy: weights trained without rescaling")
    parser.add_argument("--sets", default="levin", help=f"kernels: names with commas, out of {', '.join(SETS)}")
    parser.add_argument("--every", type=int, default=1, help="take one case of so many, evenly")
    parser.add_argument("--weights", default="0.004", help="kernels: weights of the learned prior, with commas")
    parser.add_argument("--weight", type=float, default=0.004, help="convergence, runtime: weight of the learned prior")
    parser.add_argument("--steps", type=int, default=10, help="of the learned prior")
    parser.add_argument("--rate", type=float, default=0.1, help="of the learned prior")
    parser.add_argument("--gradients", type=int, default=1, help="of the learned prior; 0: one a step")
    parser.add_argument("--halve-over", type=int, default=128, help="of the learned prior; 0: never")
    parser.add_argument("--eta", type=float, default=1e-3, help="eta_max, the end of the coupling")
    parser.add_argument("--whole", action="store_true", help="kernels: the defaults' starts and priors too")
    parser.add_argument("--threads", type=int, default=2, help="runtime: of torch")
    parser.add_argument("--batch", type=int, default=1, help="runtime: pictures in a stack")
    parser.add_argument("--repeats", type=int, default=3, help="runtime: the median of so many")
    parser.add_argument("--iterations", type=int, default=50, help="convergence: how many")
    parser.add_argument("--sizes", type=int, default=len(RUNTIMES), help="runtime: how many of the sizes")
    args = parser.parse_args(argv)
    needed = {"accuracy": "pictures", "plots": "bench", "runtime": "bench"}.get(args.bench, "data")
    if getattr(args, needed) is None:
        parser.error(f"{args.bench} needs --{needed}")
    benches[args.bench](args)


if __name__ == "__main__":
    main()
