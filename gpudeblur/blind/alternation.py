"""The first step of seed 0: latent and kernel steps in turn, one scale after the other (eq. 2-11).

    for each scale: resample (pyramid), make periodic (boundary), then repeat
    { latent step (latent, smooth_prior) <-> kernel step (kernel_step), small values cut (kernel_refine) }

`blind` takes several starts through all scales but the finest, and the best of them through that one.
"""

from __future__ import annotations

from ..images.kernels import fit_size
from ..numerics.arrays import Array, Workspace, array_module
from ..numerics.boundary import pad_liu_jia
from ..numerics.chunks import map_in_chunks
from ..numerics.fourier import rfft2
from ..numerics.progress import OnProgress, subrange
from ..numerics.resample import resample
from ..numerics.toeplitz import solve_kernel, zero_lag
from .kernel_projection import initial_kernel, normalize, project
from .kernel_step import normal_equations, select_edges, selection_window, window_pixels
from .latent import latent_step
from .options import TwoStepOptions
from .pyramid import enlarge_kernel
from .schedule import Scale, schedule

# Gradients of this mean size are rounding: an 8-bit picture has steps of 4e-3.
NO_GRADIENT = 1e-5


def coarse_to_fine(stack: Array, size: tuple[int, int], options: TwoStepOptions, report: OnProgress) -> Array:
    """Kernels (n, kh, kw) of `stack` (n, H, W) for its full size, found at all scales but the finest.

    They are the coarser scale's, enlarged: half of the work, and enough to tell a good start from a bad one.
    """
    scales = schedule(stack.shape[-2:], size, options)
    *coarse, finest = scales if len(scales) > 1 else scales * 2
    kernel = initial_kernel(coarse[0].size, len(stack), array_module(stack), stack.dtype)
    done, work = 0.0, sum(scale.shape[0] * scale.shape[1] for scale in coarse)
    for level, scale in enumerate(coarse):
        if level:
            kernel = enlarge_kernel(kernel, scale.factor, scale.size)
        share = scale.shape[0] * scale.shape[1] / work
        kernel, a, _ = run_scale(resample(stack, scale.shape), kernel, scale, options, subrange(report, done, share))
        kernel = project(kernel, share=options.kernel_threshold, component=options.kernel_component)
        done += share
    if finest is not coarse[-1]:
        kernel = enlarge_kernel(kernel, finest.factor, finest.size)
        kernel = project(kernel, share=options.kernel_threshold, component=options.kernel_component)
    known = has_gradients(a, window_pixels(selection_window(coarse[-1].shape, coarse[-1].size)))
    return normalize(fit_size(kernel, size), known)


def alternate(
    picture: Array, kernel: Array, scale: Scale, options: TwoStepOptions, report: OnProgress
) -> tuple[Array, Array, Array]:
    """Latent and kernel steps of one scale: (kernel, autocorrelation, correlation), the last equations (11) with it.

    Nothing here may wait for a device: on one, it becomes part of a CUDA graph.

    Parameters
    ----------
    picture : (..., h, w), the blurred picture at this scale, wrapped: `boundary.wrap`.
    kernel : (..., kh, kw), where to begin.
    """
    work = Workspace(picture)
    blurred_hat = rfft2(picture)
    window = selection_window(scale.shape, scale.size)
    pixels = window_pixels(window)
    for i, iteration in enumerate(scale.iterations, start=1):
        latent = latent_step(
            picture,
            kernel,
            blurred_hat=blurred_hat,
            gradient_weight=iteration.gradient_weight,
            smooth_weight=options.smooth_weight,
            smooth_sigma=scale.smooth_sigma,
            smooth_radius=max(1, max(scale.size) // 4),
            beta_rate=options.beta_rate,
            beta_max=scale.beta_max,
            prior=options.prior,
            prior_weight=_prior_weight(iteration.gradient_weight, options),
            work=work,
        )
        votes = select_edges(latent, window, iteration.share, work=work)
        a, b = normal_equations(votes, latent, blurred_hat, scale.size, work=work)
        kernel = _solve(a, b, kernel, pixels, options, work)
        if iteration.cut:
            kernel = project(
                kernel,
                share=iteration.cut,
                component=options.kernel_component,
                out=work("cut kernel", *scale.size),
            )
        report(i / len(scale.iterations))
    return kernel, a, b


def _prior_weight(gradient_weight: float, options: TwoStepOptions) -> float | None:
    """mu of the prior: it decays with lambda."""
    return None if options.prior is None else options.prior.weight * gradient_weight / options.gradient_weight


def run_scale(
    stack: Array, kernel: Array, scale: Scale, options: TwoStepOptions, report: OnProgress
) -> tuple[Array, Array, Array]:
    """`alternate` of pictures (n, h, w) that are not wrapped yet; on NumPy, as many at a time as `in_cache` says."""
    margin = (scale.size[0] - 1, scale.size[1] - 1)
    parts: list[float] = []

    def some(picture: Array, kernel: Array) -> tuple[Array, Array, Array]:
        share = len(picture) / len(stack)
        found = alternate(pad_liu_jia(picture, margin), kernel, scale, options, subrange(report, sum(parts), share))
        parts.append(share)
        return found

    return map_in_chunks(some, stack, kernel)


def _solve(
    autocorrelation: Array, correlation: Array, kernel: Array, pixels: int, options: TwoStepOptions, work: Workspace
) -> Array:
    """The kernel step: eq. 11 solved from the kernel so far, gamma as a share of the gradients' energy; normalised.

    A picture that knows no kernel gets a delta.
    """
    xp, size = array_module(correlation), correlation.shape[-2:]
    ridge = xp.multiply(zero_lag(autocorrelation), options.kernel_weight, out=work("ridge"))
    kernel = solve_kernel(
        autocorrelation, correlation, kernel, ridge, options.kernel_solver, options.kernel_iterations, work=work
    )
    known = has_gradients(autocorrelation, pixels, out=work("known", dtype=bool))
    return normalize(kernel, known, out=work("kernel", *size))


def has_gradients(autocorrelation: Array, pixels: int, out: Array | None = None) -> Array:
    """(...) bool: whether the gradients that vote are more than rounding, so that there is a kernel to know."""
    return array_module(autocorrelation).greater(zero_lag(autocorrelation), NO_GRADIENT**2 * pixels, out=out)
