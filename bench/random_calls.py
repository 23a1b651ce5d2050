"""Random calls of the public functions: odd dtypes, shapes, values and arguments.

python -m bench random_calls [--calls 5000] [--seed 0] [--only NAME] [--verbose]

A call must end within `SECONDS`, and either with a result that is finite where the image is, or with an error that this
package words itself: raised in a file of it, not by NumPy below. Whatever breaks that is printed with its arguments,
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import inspect
import math
import pathlib
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import gpudeblur as gd
from gpudeblur import metrics, nonblind, restoration, synthesis
from gpudeblur.nonblind.specs import METHOD_SPECS, UNSUPERVISED_WIENER

SECONDS = 60  # of a call that counts as one without end
PACKAGE = str(pathlib.Path(gd.__file__).parent)

NONBLIND = {spec.function.__name__: spec for spec in (*METHOD_SPECS.values(), UNSUPERVISED_WIENER)}
DOORS: dict[str, Callable[..., Any]] = {
    "deblur": gd.deblur,
    "estimate_kernel": gd.estimate_kernel,
    "deconvolve": gd.deconvolve,
    "estimate_noise": gd.estimate_noise,
    "streak_kernel": gd.streak_kernel,
    "deblur_batch": lambda *args, **more: list(gd.deblur_batch(*args, **more)),
    "KernelField": gd.KernelField,
    "show_kernels": gd.show_kernels,
    **{f"nonblind.{name}": getattr(nonblind, name) for name in nonblind.__all__},
    **{f"restoration.{name}": getattr(restoration, name) for name in restoration.__all__},
    **{f"metrics.{name}": getattr(metrics, name) for name in ("psnr", "ssim", "scores", "kernel_similarity")},
    **{f"synthesis.{name}": getattr(synthesis, name) for name in ("blur", "disk_kernel", "linear_kernel")},
    "synthesis.trajectory_kernel": synthesis.trajectory_kernel,
}
DTYPES = ("u1", "u2", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", ">u2", "g", "?", "c8", "O", "U3", "M8[s]")
SHAPES: tuple[tuple[int, ...], ...] = (
    (12, 13), (20, 17), (16, 16), (7, 9), (1, 9), (3, 3), (1, 1), (0, 5), (5,), (), (2, 12, 13), (14, 15, 3),
    (14, 15, 4), (3, 14, 15), (2, 3, 9, 9), (2, 2, 2, 9, 9), (12, 13, 2),
)  # fmt: skip
KERNEL_SHAPES: tuple[tuple[int, ...], ...] = (
    (3, 3),
    (1, 3),
    (5, 5),
    (4, 2),
    (3,),
    (0, 3),
    (2, 3, 3),
    (3, 3, 3),
    (21, 3),
)


def silent(*_: Any) -> None:
    """A function as a value, and a callback that does nothing."""


ODD: tuple[Any, ...] = (
    None, 0, -1, 1, 2, 3, 5, 24, 2.5, -0.5, 1e-30, 1e30, 1e300, math.nan, math.inf, "auto", "nan", "x", "", b"x", True,
    [], [1, 2], [[1, 2], [3]], (3, 5), {}, object(), silent, np.float32(0.1), np.array(3), np.array([1.0, 2.0]),
    np.array(["a"]), np.ones((3, 3)), np.ones((12, 13), bool), 10**30, 1j, slice(0, 3), float, pathlib.Path("a.png"),
)  # fmt: skip
USUAL: dict[str, tuple[Any, ...]] = {
    "kernel_size": (3, 5, (3, 5), None),
    "channel_axis": (None, -1, 0),
    "device": (None, "cpu", "auto"),
    "method": (None, "tv", "sparse", "l0", "hyper-laplacian", "wiener", "richardson-lucy", "two-step"),
    "final": ("tv", "hyper-laplacian", None),
    "gamma": (1.0, 2.2, "auto"),
    "white": (None, 255, 1.0, "auto"),
    "mask": (None, "nan"),
    "boundary": ("unknown", "reflect", "wrap", "edge", "taper", "liu-jia"),
    "weight": (None, 1e-3, 1e-20, 1e12),
    "noise_sigma": (None, 0.01, 0, 1e12),
    "options": (gd.TwoStepOptions(starts=("wide",)),),
    "callback": (None, lambda *_: None, lambda *_: True),
    "iterations": (1, 3),
    "num_iter": (1, 3),
    "max_num_iter": (20,),
    "rng": (0, None),
    "size": (5, 7),
    "radius": (2.0, 0.3),
    "length": (3.0, 9.5),
    "angle": (0.0, 33.0),
    "dtype": ("float32", "float64"),
}


def draw(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def random_array(rng: np.random.Generator, shapes: Sequence[tuple[int, ...]]) -> Any:
    """Mostly a float array of one of the first shapes; else of any shape, dtype, values and memory layout, or none."""
    usual = rng.random() < 0.7
    shape = draw(rng, shapes[:4] if usual else shapes)
    values = rng.random(shape)
    if not usual:
        scale = draw(rng, (1, 1, 255, 1e5, 1e-30, 1e30, 1e300, -1, 0))
        values = np.asarray(values * scale)
        if values.size and rng.random() < 0.15:
            values.flat[0] = draw(rng, (math.nan, math.inf, -math.inf))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        array: Any = np.asarray(values).astype(draw(rng, ("f4", "f8", "u1")) if usual else draw(rng, DTYPES))
    if usual and array.dtype == np.uint8:
        array = (255 * values).astype("u1")
    other = rng.random()
    if other < 0.03:
        return np.ma.masked_array(array, mask=rng.random(shape) < 0.1)
    if other < 0.06 and array.ndim:
        return np.flip(array)
    if other < 0.08:
        return draw(rng, ODD)
    if other < 0.09:
        return array.tolist()
    return array


def random_options(rng: np.random.Generator, names: Sequence[str]) -> dict[str, Any]:
    """Usual values for some of the options, and odd ones for few."""
    options = {name: draw(rng, USUAL[name]) for name in names if name in USUAL and rng.random() < 0.25}
    for name in names:
        if rng.random() < 0.5 / max(len(names), 1):
            options[name] = draw(rng, ODD)
    return options


def random_call(rng: np.random.Generator, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if name.startswith("nonblind."):
        names = ["blurred", "kernel", *NONBLIND[name.partition(".")[2]].parameter_names]
    else:
        names = list(inspect.signature(gd.deblur_batch if name == "deblur_batch" else DOORS[name]).parameters)
    arguments, rest = [], names
    if not name.startswith("synthesis.") or name == "synthesis.blur":
        first = KERNEL_SHAPES if name in ("metrics.kernel_similarity", "show_kernels") else SHAPES
        extra = {"KernelField": ((2, 2, 3, 3),), "metrics.scores": ((43, 46), (50, 42))}.get(name, ())
        arguments, rest = [random_array(rng, (*extra, *first))], names[1:]
        if name == "deblur_batch":
            arguments = [draw(rng, (arguments, arguments[0], [*arguments, random_array(rng, SHAPES)]))]
    if rest and rest[0] in ("kernel", "psf", "k_ref"):
        arguments, rest = [*arguments, random_array(rng, KERNEL_SHAPES)], rest[1:]
    elif rest and rest[0] == "reference":
        shapes = [arguments[0].shape] if hasattr(arguments[0], "shape") and rng.random() < 0.7 else SHAPES
        arguments, rest = [*arguments, random_array(rng, shapes)], rest[1:]
    options = random_options(rng, rest)
    if name.startswith("deblur") or name == "estimate_kernel":
        # Most calls without these take a second, and all pass the same checks.
        options = {"options": USUAL["options"][0], "kernel_size": 3} | options
    required = {"metrics": (), "restoration.wiener": ("balance",), "KernelField": ("shape",)}
    for option in required.get(name, ("size", "rng", "length", "angle", "radius")):
        if option in rest and option not in options:
            options[option] = draw(rng, USUAL.get(option, (0.1, (12, 13))))
    return tuple(arguments), options


class TooLong(BaseException):
    """A call took longer than `SECONDS`."""


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def arrays_of(result: Any) -> list[np.ndarray]:
    if isinstance(result, np.ndarray):
        return [np.ma.getdata(result)]
    if isinstance(result, list | tuple):
        return [array for value in result for array in arrays_of(value)]
    parts = [getattr(result, name, None) for name in ("image", "kernel", "kernels")]
    return [array for part in parts if part is not None for array in arrays_of(part)]


def is_finite(value: Any) -> bool:
    return all(bool(np.isfinite(a).all()) for a in arrays_of(value) if a.dtype.kind == "f")


def outcome(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    """ "accepted", "refused", or the fault: "endless", "not finite", or an error in the words of another library."""
    try:
        with time_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = DOORS[name](*arguments, **options)
    except TooLong:
        return "endless"
    except BaseException as error:  # noqa: BLE001  # whatever comes is what this bench counts
        return judged(error)
    if name == "deblur_batch":
        for item in result:
            if item.error is not None and judged(item.error) != "refused":
                return judged(item.error)
    if name == "restoration.richardson_lucy" and any(side % 2 == 0 for side in np.shape(arguments[1])):
        return "accepted"  # as in scikit-image, an even point spread function diverges, and is warned of
    if all(is_finite(value) for value in (*arguments, *options.values())) and not is_finite(result):
        return "not finite"
    return "accepted"


def judged(error: BaseException) -> str:
    """ "refused" for an error in the words of this package, raised in a file of it; else the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_code.co_filename if trace is not None else ""
    expected = isinstance(error, TypeError | ValueError | OSError | RuntimeError | ImportError | gd.Stopped)
    # An operator or a call with unfit arguments fails in a file of the package too, in Python's words.
    line = "".join(inspect.getframeinfo(trace).code_context or []) if trace is not None else ""
    if expected and where.startswith(PACKAGE) and line.lstrip().startswith("raise ") and str(error):
        return "refused"
    place = f"{where}:{trace.tb_lineno}" if trace is not None else "?"
    return f"{type(error).__name__}: {error} ({place})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=DOORS, help="one function")
    parser.add_argument("--verbose", action="store_true", help="every call before it is made")
    arguments = parser.parse_args(argv)
    begin, faults = time.perf_counter(), 0
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in DOORS}
    names = [arguments.only] if arguments.only else list(DOORS)
    for index in range(arguments.calls):
        rng = np.random.default_rng([arguments.seed, index])
        name = names[index % len(names)]
        positional, options = random_call(rng, name)
        if arguments.verbose:
            print(index, name, positional, options, flush=True)
        result = outcome(name, positional, options)
        is_fault = result not in ("accepted", "refused")
        counts[name]["faults" if is_fault else result] += 1
        if is_fault:
            faults += 1
            with np.printoptions(threshold=6, edgeitems=1):
                shown = [f"{a.dtype}{a.shape}" if isinstance(a, np.ndarray) else repr(a)[:80] for a in positional]
                print(f"call {index}: {name}({', '.join(shown)}, {options}): {result}", flush=True)
    print(f"{'function':32}{'accepted':>10}{'refused':>10}{'faults':>10}")
    for name in names:
        print(f"{name:32}" + "".join(f"{counts[name][kind]:10}" for kind in ("accepted", "refused", "faults")))
    accepted = sum(count["accepted"] for count in counts.values())
    print(f"{arguments.calls} calls, {accepted} accepted, {faults} faults, {time.perf_counter() - begin:.0f} s")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
