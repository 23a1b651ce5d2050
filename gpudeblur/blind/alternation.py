"""The first step of [Chen2017]: latent and kernel steps in turn, one scale after the other (eq. 2-11).

    for each scale: resample, make periodic (boundary), then repeat
    { latent step (latent) <-> kernel step (kernel_step, toeplitz), small values of the kernel set to 0 }

`two_step` takes every initialization through all scales but the finest, and the best of them through that one.
"""

from __future__ import annotations

from ..images.kernels import fit_size
from ..numerics.arrays import Array, Workspace, array_module
from ..numerics.boundary import pad_liu_jia
from ..numerics.chunks import map_in_chunks
from ..numerics.fourier import rfft2
from ..numerics.progress import OnProgress, subrange
from ..numerics.resample import resample
from .kernel_projection import initial_kernel, normalize, project
from .kernel_step import has_gradients, kernel_step, normal_equations, select_edges, selection_window, window_pixels
from .latent import latent_step
from .options import TwoStepOptions
from .pyramid import enlarge_kernel
from .region import add_patches, for_patches, patches_of
from .schedule import Scale, schedule


def coarse_to_fine(images: Array, size: tuple[int, int], options: TwoStepOptions, progress: OnProgress) -> Array:
    """Kernels (n, *size) of `images` (n, H, W), estimated at all scales but the finest and enlarged to full size.

    Of images (n, P, H, W), each P are patches that share a kernel. This is half of the work, and enough to tell a
    good initialization from a bad one.
    """
    scales = schedule(images.shape[-2:], size, options)
    *coarse, finest = scales if len(scales) > 1 else scales * 2
    limits = {"share": options.kernel_threshold, "component": options.kernel_component}
    kernel = initial_kernel(coarse[0].size, len(images), array_module(images), images.dtype)
    done, pixels = 0.0, sum(scale.shape[0] * scale.shape[1] for scale in coarse)
    for level, scale in enumerate(coarse):
        if level:
            kernel = enlarge_kernel(kernel, scale.factor, scale.size)
        fraction = scale.shape[0] * scale.shape[1] / pixels
        scaled = resample(images, scale.shape)
        kernel, autocorrelation, _ = run_scale(scaled, kernel, scale, options, subrange(progress, done, fraction))
        kernel = project(kernel, **limits)
        done += fraction
    if finest is not coarse[-1]:
        kernel = project(enlarge_kernel(kernel, finest.factor, finest.size), **limits)
    window = selection_window(coarse[-1].shape, coarse[-1].size)
    determined = has_gradients(autocorrelation, window_pixels(window) * patches_of(images, kernel))
    return normalize(fit_size(kernel, size), determined)


def run_scale(
    images: Array, kernel: Array, scale: Scale, options: TwoStepOptions, progress: OnProgress
) -> tuple[Array, Array, Array]:
    """Pad `images` (n, h, w) or (n, P, h, w) and `alternate`: in cache-sized chunks on NumPy, all at once on CuPy."""
    margin = (scale.size[0] - 1, scale.size[1] - 1)
    fractions: list[float] = []

    def run(images_chunk: Array, kernel_chunk: Array) -> tuple[Array, Array, Array]:
        fraction = len(images_chunk) / len(images)
        chunk_progress = subrange(progress, sum(fractions), fraction)
        result = alternate(pad_liu_jia(images_chunk, margin), kernel_chunk, scale, options, chunk_progress)
        fractions.append(fraction)
        return result

    return map_in_chunks(run, images, kernel)


def alternate(
    blurred: Array, kernel: Array, scale: Scale, options: TwoStepOptions, progress: OnProgress
) -> tuple[Array, Array, Array]:
    """Latent and kernel steps of one scale: (kernel, autocorrelation, correlation), with the last equations (11).

    In float32 nothing here waits for a device: there it becomes part of a CUDA graph.

    Parameters
    ----------
    blurred : (..., h, w), the blurred images at this scale, padded by `boundary.pad_liu_jia`; or (n, P, h, w), patches
        of which each P share a kernel. The equations of these are added.
    kernel : (..., kh, kw), where to begin.
    """
    buffers, kernel_buffers = Workspace(blurred), Workspace(kernel)
    blurred_hat = rfft2(blurred)
    window = selection_window(scale.shape, scale.size)
    pixels = window_pixels(window) * patches_of(blurred, kernel)
    for i, iteration in enumerate(scale.iterations, start=1):
        latent = latent_step(
            blurred,
            for_patches(kernel, blurred),
            blurred_hat=blurred_hat,
            gradient_weight=iteration.gradient_weight,
            smooth_weight=options.smooth_weight,
            smooth_sigma=scale.smooth_sigma,
            smooth_radius=max(1, max(scale.size) // 4),
            beta_rate=options.beta_rate,
            beta_max=scale.beta_max,
            prior=options.prior,
            prior_weight=_prior_weight(iteration.gradient_weight, options),
            buffers=buffers,
        )
        selected = select_edges(latent, window, iteration.edge_fraction, buffers=buffers)
        a, b = normal_equations(selected, latent, blurred_hat, scale.size, buffers=buffers)
        a, b = (add_patches(equations, kernel) for equations in (a, b))
        kernel = kernel_step(a, b, kernel, pixels, options, kernel_buffers)
        if iteration.threshold:
            kernel = project(
                kernel,
                share=iteration.threshold,
                component=options.kernel_component,
                out=kernel_buffers("projected kernel", *scale.size),
            )
        progress(i / len(scale.iterations))
    return kernel, a, b


def _prior_weight(gradient_weight: float, options: TwoStepOptions) -> float | None:
    """mu of the prior, which decays as lambda does."""
    return None if options.prior is None else options.prior.weight * gradient_weight / options.gradient_weight
