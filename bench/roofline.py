"""The least that kernel estimation asks of a GPU: its launches and transforms, and the bytes that these must move.

    python bench/roofline.py [--bandwidth 4.3] [--rate 50]     a table, without a GPU

`BYTES` has one line for each CUDA kernel: every array that it takes is read once, every array that it gives is written
once, but for tables that all pictures share. A 2-D transform of cuFFT passes over memory twice, once for the rows and
once, in place, for the columns. `plan` lists what runs for one stack, term by term in the order of
`two_step._best_kernel`: starts and judging them, finishing the best and judging these; the floor is the time that its
bytes take at the bandwidth of a copy, or its arithmetic at the rate of a matrix product where that is more.
A latent pass moves 54 bytes a pixel: stencil 8, R2C 16, quotient 14, C2R 16. Arrays that stay in the GPU's cache can be
faster than that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from .evaluate import arguments, table

from gpudeblur import TwoStepOptions
from gpudeblur.alternation import Iteration, Scale, schedule
from gpudeblur.choice import BETA_MAX, GRADIENT_WEIGHT
from gpudeblur.fourier import fast_size
from gpudeblur.kernel_step import voting_window, window_pixels
from gpudeblur.latent import NEGLIGIBLE
from gpudeblur.pyramid import support_size
from gpudeblur.two_step import LAST_MARGIN, LAST_WAYS  # private: the bench must see the very same plan


@dataclass(frozen=True)
class Grid:
    """`n` pictures of h x w float32, kernels of kh x kw."""

    n: int
    h: int
    w: int
    kh: int = 1
    kw: int = 1
    window: int = 0  # pixels in it

    @property
    def pixels(self) -> int:
        return self.n * self.h * self.w

    @property
    def spectrum(self) -> int:
        """Complex numbers of a real transform."""
        return self.n * self.h * (self.w // 2 + 1)

    @property
    def kernel(self) -> int:
        return self.n * self.kh * self.kw

    @property
    def lags(self) -> int:
        return self.n * (2 * self.kh - 1) * (2 * self.kw - 1)


BYTES: dict[str, Callable[[Grid], int]] = {
    # The latent step.
    "l0_split": lambda g: 8 * g.pixels,
    "edge_mask": lambda g: 5 * g.pixels,
    "dilate": lambda g: 2 * g.pixels,  # one axis
    "gaussian_smooth": lambda g: 8 * g.pixels,  # one axis
    "smooth_split": lambda g: 13 * g.pixels,  # adds to what is there
    "cufft_r2c": lambda g: _transform_bytes(g),
    "spectral_solve": lambda g: 28 * g.spectrum,
    "cufft_c2r": lambda g: _transform_bytes(g),
    "kernel_grid": lambda g: 4 * g.kernel + 4 * g.pixels,
    "transfer": lambda g: 28 * g.spectrum,
    # The restoration "hyper-laplacian", beside these.
    "shrink_split": lambda g: 8 * g.pixels,
    # The kernel step.
    "voting_threshold": lambda g: 4 * g.window + 4 * g.n,  # of a large picture, three times
    "voting_split": lambda g: 8 * g.pixels + 4 * g.n,
    "normal_spectra": lambda g: 40 * g.spectrum,
    "lags": lambda g: 8 * g.kernel,  # as many lags as kernel pixels: the grid is to say kh, kw of these
    "spectrum_max": lambda g: 8 * g.spectrum + 4 * g.n,
    "toeplitz_cg": lambda g: 4 * g.lags + 12 * g.kernel + 4 * g.n,
    "toeplitz_nnls": lambda g: 4 * g.lags + 12 * g.kernel + 8 * g.n,
    "normalise": lambda g: 8 * g.kernel + g.n,
    "project": lambda g: 8 * g.kernel,
    # A picture's way to a scale, and a kernel's from scale to scale; noise. `window`: the pixels that are read.
    "resample": lambda g: 4 * g.window + 4 * g.pixels,  # one axis
    "select": lambda g: 4 * g.window + 4 * g.n,  # of a large picture, three times
}
# What is no launch of ours, on arrays.
ARRAYS: dict[str, Callable[[Grid], int]] = {
    "wrap": lambda g: 4 * (g.window + g.pixels),
}
ONE_BLOCK_ITEMS = 1 << 14  # as in gpudeblur._cuda, which needs CuPy: of more, three launches select


def _transform_bytes(grid: Grid) -> int:
    """Lines: 4 a pixel, 8 a frequency. Pictures: their rows likewise, then the columns, 8 and 8 in place."""
    return 4 * grid.pixels + (8 if grid.h == 1 else 24) * grid.spectrum


def solver_operations(grid: Grid, iterations: int) -> int:
    """Of the products with the Toeplitz matrix, which the CUDA kernels form directly."""
    return 2 * iterations * grid.kernel * grid.kh * grid.kw


@dataclass(frozen=True)
class Term:
    """`count` launches of one kind on one grid."""

    name: str
    count: int
    grid: Grid
    operations: int = 0

    @property
    def bytes(self) -> int:
        return self.count * {**BYTES, **ARRAYS}[self.name](self.grid)


def passes(
    gradient_weight: float, beta_max: float, beta_rate: float = 2.0, smooth_weight: float = 0.0
) -> tuple[int, int]:
    """Passes of one latent step, and those of them with the smooth map."""
    betas = []
    beta = 2 * gradient_weight
    while beta < beta_max:
        betas.append(beta)
        beta *= beta_rate
    return len(betas), sum(smooth_weight > NEGLIGIBLE * beta for beta in betas)


def plan(shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions, batch: int = 1) -> Iterator[Term]:
    """What one `estimate_kernel` of `batch` pictures of `shape` does on a GPU, in order."""
    starts = len(options.starts)
    several = starts > 1
    yield from _median(batch, (shape[0] - 1) * (shape[1] - 1))  # the noise
    for name in options.starts:
        yield from plan_start(shape, size, options.of_start(name), batch)
        if several:
            yield from plan_judge(shape, size, batch)
    finalists, ways = min(options.finalists, starts), LAST_WAYS if several else LAST_WAYS[:1]
    for _ in range(finalists):
        for way in ways:
            yield from plan_finish(shape, size, replace(options, **way), batch)
    for _ in range(finalists * len(ways)):
        yield from plan_judge(shape, size, batch)
    grid = Grid(batch, 2 * size[0] - 1, 2 * size[1] - 1, *size)  # the agreement of the starts with the result
    for _ in range(1 + starts):
        yield from _otf(grid)
    yield Term("cufft_c2r", starts, grid)


def plan_start(shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions, batch: int) -> Iterator[Term]:
    """`alternation.start`: all scales but the finest."""
    *coarse, finest = schedule(shape, size, options)
    kernel_size = None
    for scale in coarse or [finest]:
        if kernel_size is not None:
            yield from _resample(kernel_size, scale.size, batch)
        kernel_size = scale.size
        if scale.shape != shape:
            yield from _resample(shape, scale.shape, batch)
        yield from _alternate(scale, options, batch)
        yield Term("project", 1, Grid(batch, 1, 1, *scale.size))
    if kernel_size is not None and coarse:
        yield from _resample(kernel_size, finest.size, batch)
        yield Term("project", 1, Grid(batch, 1, 1, *finest.size))
    yield Term("normalise", 1, Grid(batch, 1, 1, *size))


def plan_judge(shape: tuple[int, int], size: tuple[int, int], batch: int) -> Iterator[Term]:
    """`choice.judge`: a latent picture, what it leaves unexplained, and the spectra of picture and kernel."""
    grid = _wrapped(shape, size, batch)
    yield from _wrap(shape, grid)
    yield Term("cufft_r2c", 1, grid)  # of the blurred picture
    yield from _latent(grid, *passes(GRADIENT_WEIGHT, BETA_MAX))
    yield from _otf(grid)  # the energy of eq. 2
    yield Term("cufft_r2c", 1, grid)
    yield Term("cufft_c2r", 1, grid)
    yield Term("edge_mask", 1, grid)
    spectra = Grid(batch, fast_size(shape[0]), fast_size(shape[1]), *size)
    yield Term("cufft_r2c", 1, spectra)
    yield from _otf(spectra)


def plan_finish(shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions, batch: int) -> Iterator[Term]:
    """`two_step._finish`: the finest scale, then the second step and the projection."""
    scale = last_scale(shape, size, options)
    yield from _alternate(scale, options, batch)
    grid = Grid(batch, 1, 1, *scale.size)
    if options.refine:
        yield Term("project", 1, grid)
        beta = options.refine_beta
        while beta <= 1:
            yield from _solve(grid, options)
            beta *= 2
    yield Term("project", 1, grid)
    yield Term("normalise", 1, Grid(batch, 1, 1, *size))


def plan_hyper_laplacian(shape: tuple[int, int], size: tuple[int, int], batch: int = 1) -> Iterator[Term]:
    """What the restoration "hyper-laplacian" adds, and the residual of its result."""
    grid = _wrapped(shape, size, batch)
    yield from _wrap(shape, grid)
    yield from _otf(grid)
    yield Term("cufft_r2c", 1, grid)
    yield Term("transfer", 1, grid)
    count = 6  # beta from 1 to 256 by 2 sqrt(2)
    for name in ("shrink_split", "cufft_r2c", "spectral_solve", "cufft_c2r"):
        yield Term(name, count, grid)
    grid = Grid(batch, fast_size(shape[0]), fast_size(shape[1]), *size)
    yield from _otf(grid)
    yield Term("cufft_r2c", 1, grid)
    yield Term("cufft_c2r", 1, grid)


def last_scale(shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions) -> Scale:
    """The finest scale as `two_step._finish` goes through it."""
    first, last = options.last_gradient_weight
    count, share, cut = options.last_iterations, options.voting_share[1], options.iteration_threshold[1]
    weights = [first * (last / first) ** (i / max(1, count - 1)) for i in range(count)]
    iterations = tuple(Iteration(weight, share, cut) for weight in weights)
    return Scale(
        support_size(size, shape, LAST_MARGIN), shape, 1.0, iterations, options.smooth_sigma, options.last_beta_max
    )


def _wrapped(shape: tuple[int, int], size: tuple[int, int], batch: int) -> Grid:
    """The periodic grid for pictures of `shape` and kernels of `size`."""
    h, w = (fast_size(side + k - 1) for side, k in zip(shape, size, strict=True))
    return Grid(batch, h, w, *size)


def _wrap(shape: tuple[int, int], grid: Grid) -> Iterator[Term]:
    """`boundary.wrap` of pictures of `shape`: border lines and what goes on between them, by their frequencies."""
    yield Term("wrap", 1, replace(grid, window=grid.n * math.prod(shape)))
    for count, length in ((grid.w - shape[1], 2 * shape[0]), (grid.h - shape[0], grid.w)):
        yield Term("cufft_r2c", 2, Grid(grid.n, 1, length))
        yield Term("cufft_c2r", count > 0, Grid(grid.n * count, 1, length))


def _resample(source: tuple[int, int], target: tuple[int, int], batch: int) -> Iterator[Term]:
    """Rows, then columns."""
    between = (target[0], source[1])
    for before, after in ((source, between), (between, target)):
        yield Term("resample", 1, Grid(batch, *after, window=batch * math.prod(before)))


def _median(batch: int, items: int) -> Iterator[Term]:
    """`noise.median` of so many values of each picture: of an even number the mean of two."""
    count = (1 if items % 2 else 2) * selection_launches(items)
    yield Term("select", count, Grid(batch, 1, 1, window=batch * items))


def selection_launches(items: int) -> int:
    """Launches that select among so many values of a picture."""
    return 1 if items <= ONE_BLOCK_ITEMS else 3


def _alternate(scale: Scale, options: TwoStepOptions, batch: int) -> Iterator[Term]:
    """`alternation.alternate_on`: latent and kernel steps of one scale."""
    window = window_pixels(voting_window(scale.shape, scale.size))
    grid = replace(_wrapped(scale.shape, scale.size, batch), window=batch * window)
    yield from _wrap(scale.shape, grid)
    yield Term("cufft_r2c", 1, grid)  # of the blurred picture
    for iteration in scale.iterations:
        counts = passes(iteration.gradient_weight, scale.beta_max, options.beta_rate, options.smooth_weight)
        yield from _latent(grid, *counts)
        yield from _equations(grid)
        yield from _solve(grid, options)
        yield Term("normalise", 1, grid)
        yield Term("project", iteration.cut > 0, grid)


def _latent(grid: Grid, count: int, smooth: int) -> Iterator[Term]:
    """The latent step in so many passes, so many of them with the smooth map."""
    yield from _otf(grid)
    yield Term("transfer", 1, grid)
    yield Term("l0_split", count, grid)
    yield Term("edge_mask", smooth, grid)
    yield Term("dilate", 2 * smooth, grid)
    yield Term("gaussian_smooth", 2 * smooth, grid)
    yield Term("smooth_split", smooth, grid)
    yield Term("cufft_r2c", count, grid)
    yield Term("spectral_solve", count, grid)
    yield Term("cufft_c2r", count, grid)


def _otf(grid: Grid) -> Iterator[Term]:
    """A kernel as a transfer function."""
    yield Term("kernel_grid", 1, grid)
    yield Term("cufft_r2c", 1, grid)


def _equations(grid: Grid) -> Iterator[Term]:
    """The gradients that vote and the normal equations of the kernel step."""
    yield Term("voting_threshold", selection_launches(grid.window // grid.n), grid)
    yield Term("voting_split", 1, grid)
    yield Term("cufft_r2c", 2, grid)
    yield Term("normal_spectra", 1, grid)
    yield Term("cufft_c2r", 2, grid)
    yield Term("lags", 1, grid)
    yield Term("lags", 1, replace(grid, kh=2 * grid.kh - 1, kw=2 * grid.kw - 1))


def _solve(grid: Grid, options: TwoStepOptions) -> Iterator[Term]:
    """The linear solve of the kernel step."""
    if options.kernel_solver == "nnls":  # its step width is from the spectrum of the matrix
        sides = 2 * grid.kh - 1, 2 * grid.kw - 1
        lags = Grid(grid.n, fast_size(sides[0]), fast_size(sides[1]), *sides)
        yield from _otf(lags)
        yield Term("spectrum_max", 1, lags)
    operations = solver_operations(grid, options.kernel_iterations)
    yield Term(f"toeplitz_{options.kernel_solver}", 1, grid, operations=operations)


@dataclass(frozen=True)
class Roofline:
    """Sums over a plan; bytes and seconds of one picture, launches and transforms of one call."""

    launches: Counter[str]
    transforms: int
    bytes: float
    operations: float
    seconds: float


def roofline(terms: Iterable[Term], batch: int, bandwidth: float, rate: float) -> Roofline:
    """The floor at so many bytes a second of a copy and so many operations a second of a matrix product."""
    launches: Counter[str] = Counter()
    moved = operations = seconds = 0.0
    for term in terms:
        launches[term.name] += term.count
        moved += term.bytes
        operations += term.operations
        seconds += max(term.bytes / bandwidth, term.operations / rate)
    transforms = launches["cufft_r2c"] + launches["cufft_c2r"]
    return Roofline(launches, transforms, moved / batch, operations / batch, seconds / batch)


def main() -> None:
    parser = arguments(__doc__, "options")
    parser.add_argument("--bandwidth", type=float, default=4.3, help="TB/s of a copy")
    parser.add_argument("--rate", type=float, default=50.0, help="TFLOP/s of a float32 matrix product")
    args = parser.parse_args()
    options = TwoStepOptions(**args.options)
    columns = {
        "case": "", "transforms": "d", "launches": "d", "gigabytes": ".2f", "gigaoperations": ".2f", "floor_ms": ".3f",
        "most": "",
    }  # fmt: skip
    rows = []
    for side, size in ((255, 15), (255, 25), (255, 51), (512, 25), (1024, 25), (2048, 51)):
        terms = list(plan((side, side), (size, size), options))
        floor = roofline(terms, 1, 1e12 * args.bandwidth, 1e12 * args.rate)
        moved: Counter[str] = Counter()
        for term in terms:
            moved[term.name] += term.bytes
        most = ", ".join(f"{name} {part / floor.bytes:.0%}" for name, part in moved.most_common(6))
        rows.append({
            "case": f"{side}x{side}_k{size}", "transforms": floor.transforms, "launches": floor.launches.total(),
            "gigabytes": floor.bytes / 1e9, "gigaoperations": floor.operations / 1e9, "floor_ms": 1e3 * floor.seconds,
            "most": most,
        })  # fmt: skip
    print(table(rows, columns))


if __name__ == "__main__":
    main()
