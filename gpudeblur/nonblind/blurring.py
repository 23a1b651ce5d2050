"""The blur of `sparse` as an operator on spectra, by one kernel or by a field of kernels; checks of a field."""

from __future__ import annotations

from ..images import checks
from ..images.kernel_field import KernelField
from ..numerics.arrays import Array, array_module
from ..numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2
from ..numerics.varying_blur import VaryingBlur, mean_power


class Uniform:
    """x * k at the pixels of B.

    x extends half a kernel beyond B, then zeros follow up to a fast size: where pixels were observed, a circular
    convolution is exact. x is represented by its spectrum divided by the number of pixels of this grid. The blur enters
    the equations twice, so K is the blur times the root of that number.

    Attributes
    ----------
    grid : sides of the periodic grid.
    window : the position of B on it.
    power : |F k|^2 divided by the number of pixels, (..., H, W // 2 + 1) real.
    """

    def __init__(self, blurred: Array, kernel: Array) -> None:
        self.grid, self.window = _geometry(blurred, kernel)
        self._otf = psf_to_otf(kernel, self.grid)
        self._otf *= (self.grid[0] * self.grid[1]) ** -0.5
        self._padded = array_module(blurred, kernel).zeros((*blurred.shape[:-2], *self.grid), dtype=blurred.dtype)

    @property
    def power(self) -> Array:
        return self._otf.real**2 + self._otf.imag**2

    def blur(self, spectrum: Array) -> Array:
        """K x, (..., H, W) like B."""
        return irfft2(self._otf * spectrum, self.grid, overwrite=True)[self.window]

    def adjoint(self, u: Array) -> Array:
        """K^T u, the spectrum of an image on the grid."""
        xp = array_module(u)
        self._padded[self.window] = u
        spectrum = rfft2(self._padded)
        xp.conjugate(spectrum, out=spectrum)  # conj(K) F = conj(K conj(F)), all in place
        spectrum *= self._otf
        return xp.conjugate(spectrum, out=spectrum)


class Varying:
    """`Uniform` for a field of kernels; `power` is the mean over the image."""

    def __init__(self, blurred: Array, field: KernelField) -> None:
        kernels, shape = field.kernels.astype(blurred.dtype, copy=False), field.shape
        self.grid, self.window = _geometry(blurred, kernels)
        size = self.grid[0] * self.grid[1]
        self._operator = VaryingBlur(kernels, field.positions, shape, blurred.dtype, scale=size**-0.5)
        self.power = mean_power(kernels, field.positions, shape, self.grid) * (1 / size)
        xp = array_module(blurred, kernels)
        self._padded = xp.zeros((*blurred.shape[:-2], *self.grid), dtype=blurred.dtype)
        rows, columns = self._operator.padded_shape
        self._extent = (..., slice(rows), slice(columns))

    def blur(self, spectrum: Array) -> Array:
        return self._operator.blur(irfft2(spectrum, self.grid)[self._extent])

    def adjoint(self, u: Array) -> Array:
        self._padded[self._extent] = self._operator.adjoint(u)
        return rfft2(self._padded)


def _geometry(blurred: Array, kernel: Array) -> tuple[tuple[int, int], tuple]:
    (h, w), (kh, kw) = blurred.shape[-2:], kernel.shape[-2:]
    top, left = kh // 2, kw // 2
    grid = (fast_size(h + kh - 1), fast_size(w + kw - 1))
    return grid, (..., slice(top, top + h), slice(left, left + w))


def check_field(field: KernelField, image: Array, *, boundary: str, channel_axis: int | None = None) -> None:
    """Raise unless a method can restore `image`, which `checks.check_picture` accepts, with the field."""
    if boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' for a KernelField, got {boundary!r}; leave it out")
    shape = checks.without_channels(image, channel_axis)[-2:]
    if field.shape != shape:
        raise ValueError(
            f"kernel must be a KernelField of the picture's shape, {shape}, got {field.shape}; make one with that "
            "shape, or cut one with field.crop"
        )
