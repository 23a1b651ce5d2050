"""Laws of the synthetic kernels and of the blur: sums, supports, seeds, centring, convolution sense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudeblur.synthesis import blur, gaussian_process_kernel, linear_kernel, trajectory_kernel

RANDOM = [trajectory_kernel, gaussian_process_kernel]
SIZES = [3, 5, 7, 9, 11, 21, 31, 41, 61]


def extent(kernel, threshold=0.01):
    """The larger side, in pixels, of the support above a fraction of the maximum."""
    support = kernel > threshold * kernel.max()
    return max(np.ptp(np.flatnonzero(support.any(axis=axis))) + 1 for axis in (0, 1))


def offset(kernel):
    """Distance of the centre of mass from the middle, (dy, dx)."""
    grid = np.indices(kernel.shape)
    return [float((g * kernel).sum()) - n // 2 for g, n in zip(grid, kernel.shape, strict=True)]


@pytest.mark.parametrize("make", RANDOM)
@pytest.mark.parametrize("size", SIZES)
def test_random_kernels_are_blur_kernels(make, size):
    for seed in range(8):
        kernel = make(size, rng=seed)
        assert kernel.shape == (size, size)
        assert kernel.dtype == np.float64
        assert kernel.min() >= 0
        assert kernel.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("make", RANDOM)
@pytest.mark.parametrize("size", [11, 21, 31, 41, 61])
def test_support_spans_the_size_less_the_margin(make, size):
    for seed in range(12):
        kernel = make(size, rng=seed)
        assert size - 6 <= extent(kernel) <= size - 4
        assert extent(kernel, threshold=0) <= size - 4 + 1
        assert max(np.abs(offset(kernel))) <= max(2, size / 16)


@pytest.mark.parametrize("make", RANDOM)
def test_margin_and_width_matter(make):
    assert extent(make(31, rng=1, margin=8), threshold=0) <= 16
    assert extent(make(31, rng=1, margin=0)) >= 29
    # The same path, thicker: less peaked.
    assert make(31, rng=1, width=1.5).max() < make(31, rng=1, width=0.0).max()


@pytest.mark.parametrize("make", RANDOM)
def test_seed_decides(make):
    kernel = make(25, rng=7)
    np.testing.assert_array_equal(kernel, make(25, rng=7))
    np.testing.assert_array_equal(kernel, make(25, rng=np.random.default_rng(7)))
    assert np.abs(kernel - make(25, rng=8)).max() > 1e-3
    generator = np.random.default_rng(7)
    first, second = make(25, rng=generator), make(25, rng=generator)
    np.testing.assert_array_equal(kernel, first)
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("make", RANDOM)
def test_dtype(make):
    kernel = make(25, rng=7, dtype=np.float32)
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, make(25, rng=7).astype(np.float32))
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got int64"):
        make(25, rng=7, dtype=np.int64)


@pytest.mark.parametrize("make", RANDOM)
def test_refuses_sizes(make):
    with pytest.raises(ValueError, match="size must be odd and at least 3, got 24; use 25"):
        make(24, rng=0)
    with pytest.raises(ValueError, match="size must be odd and at least 3, got -5; use 3"):
        make(-5, rng=0)
    with pytest.raises(TypeError, match=r"size must be an odd integer, got 25\.0"):
        make(25.0, rng=0)
    with pytest.raises(ValueError, match="margin must leave a pixel of the kernel, got 6 for size 11"):
        make(11, rng=0, margin=6)
    with pytest.raises(ValueError, match=r"width must fit into the kernel, got 4 for size 11"):
        make(11, rng=0, width=4)


def test_trajectory_parameters_matter():
    def path(**changes):
        return trajectory_kernel(41, rng=3, **{"perturbation": 2.0, **changes})

    for changes in ({"perturbation": 5.0}, {"inertia": 0.0}, {"jerks": 20.0}, {"speed_variation": 0.0}):
        assert np.abs(path() - path(**changes)).max() > 1e-3
    with pytest.raises(ValueError, match="jerks must be at least 0, and finite, got -1"):
        path(jerks=-1)


def test_trajectory_without_forces_is_straight_and_even():
    kernel = trajectory_kernel(41, rng=3, perturbation=0, inertia=0, jerks=0, speed_variation=0, width=0)
    y, x = np.nonzero(kernel > 0.2 * kernel.max())
    weight = kernel[y, x] / kernel[y, x].sum()
    spread = np.linalg.eigvalsh(np.cov(np.stack([y, x]), aweights=weight))
    assert spread[0] < 0.4  # thin across: the bilinear splat alone
    assert spread[1] > 100  # 37 px long: 37^2 / 12 = 114
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=0.2 * kernel.max())


def test_gaussian_process_scale_makes_it_smooth():
    """A long length scale leaves an almost straight path: a smaller share of the pixels."""

    def used(length_scale):
        return np.mean([(gaussian_process_kernel(41, rng=s, length_scale=length_scale) > 0).mean() for s in range(10)])

    assert used(3.0) < 0.8 * used(0.15)
    with pytest.raises(ValueError, match="length_scale must be above 0, and finite, got 0"):
        gaussian_process_kernel(21, rng=0, length_scale=0)
    assert np.isfinite(gaussian_process_kernel(21, rng=0, duration=3.0)).all()


# ------------------------------------------------------------------ straight motion
@pytest.mark.parametrize("length", [1, 3, 7, 15])
def test_linear_kernel_along_the_axes_is_even(length):
    row = np.full((1, length), 1 / length)
    expected = np.pad(row, [(length // 2, length // 2), (0, 0)])
    np.testing.assert_allclose(linear_kernel(length, 0), expected, atol=1e-12)
    np.testing.assert_allclose(linear_kernel(length, 90), expected.T, atol=1e-12)
    np.testing.assert_allclose(linear_kernel(length, 180), expected, atol=1e-12)


@given(st.floats(1, 40), st.floats(-360, 360))
@settings(deadline=None, max_examples=60)
def test_linear_kernel_laws(length, angle):
    kernel = linear_kernel(length, angle)
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-9)
    np.testing.assert_allclose(kernel[::-1], linear_kernel(length, -angle), atol=1e-9)
    # Nothing is lost in the smallest size.
    larger = linear_kernel(length, angle, kernel.shape[0] + 4)
    np.testing.assert_allclose(larger[2:-2, 2:-2], kernel, atol=1e-9)


def test_linear_kernel_points_up_to_the_right():
    kernel = linear_kernel(15, 45)
    assert kernel[0, -1] > 0  # top right
    assert kernel[0, 0] == 0


def test_linear_kernel_refuses():
    with pytest.raises(ValueError, match=r"length must be at least 1 pixel, and finite, got 0\.5"):
        linear_kernel(0.5, 0)
    with pytest.raises(ValueError, match="angle must be in degrees, and finite, got nan"):
        linear_kernel(5, float("nan"))
    with pytest.raises(ValueError, match="size must hold the motion, got 9 for length 15; use 15 or more"):
        linear_kernel(15, 0, 9)
    with pytest.raises(ValueError, match="size must be odd and at least 1, got 16; use 17"):
        linear_kernel(15, 0, 16)


# ------------------------------------------------------------------ blur
@pytest.fixture
def picture():
    return np.random.default_rng(0).random((23, 30))


def test_blur_is_a_convolution(picture):
    """Against the definition: B[p] = sum_q k[q] x[p - q], q counted from the kernel's middle."""
    kernel = np.random.default_rng(1).random((5, 3))
    expected = np.zeros((19, 28))
    for y in range(19):
        for x in range(28):
            expected[y, x] = sum(
                kernel[i, j] * picture[y + 2 - (i - 2), x + 1 - (j - 1)] for i in range(5) for j in range(3)
            )
    np.testing.assert_allclose(blur(picture, kernel), expected, atol=1e-13)


def test_blur_of_a_point_shows_the_kernel():
    kernel = trajectory_kernel(11, rng=0)
    point = np.zeros((31, 33))
    point[15, 16] = 1
    np.testing.assert_allclose(blur(point, kernel, mode="same")[10:21, 11:22], kernel, atol=1e-15)


@pytest.mark.parametrize("mode", ["valid", "same", "wrap"])
def test_blur_modes_agree_inside_and_keep_a_constant(picture, mode):
    kernel = trajectory_kernel(7, rng=0)
    inside = blur(picture, kernel)
    result = blur(picture, kernel, mode=mode)
    assert result.shape == ((17, 24) if mode == "valid" else (23, 30))
    np.testing.assert_allclose(result if mode == "valid" else result[3:-3, 3:-3], inside, atol=1e-14)
    np.testing.assert_allclose(blur(np.full((9, 12), 0.3), kernel, mode=mode), 0.3, atol=1e-14)


def test_blur_wrap_shifts_with_the_picture_and_keeps_the_mean(picture):
    kernel = trajectory_kernel(7, rng=0)
    result = blur(picture, kernel, mode="wrap")
    assert result.mean() == pytest.approx(picture.mean(), abs=1e-14)
    np.testing.assert_allclose(
        blur(np.roll(picture, (3, -5), (0, 1)), kernel, mode="wrap"), np.roll(result, (3, -5), (0, 1)), atol=1e-14
    )


@pytest.mark.parametrize("mode", ["valid", "same", "wrap"])
def test_blur_by_a_delta_changes_nothing(picture, mode):
    np.testing.assert_allclose(blur(picture, np.ones((1, 1)), mode=mode), picture, atol=1e-14)


def test_blur_of_a_stack_is_a_loop(picture):
    kernel = trajectory_kernel(7, rng=0)
    stack = np.stack([picture, picture**2, np.zeros_like(picture)])[None]
    result = blur(stack, kernel)
    assert result.shape == (1, 3, 17, 24)
    for sharp, blurred in zip(stack[0], result[0], strict=True):
        np.testing.assert_allclose(blurred, blur(sharp, kernel), atol=1e-14)


def test_blur_keeps_float32(picture):
    kernel = trajectory_kernel(7, rng=0)
    result = blur(picture.astype(np.float32), kernel, noise_sigma=0.01, rng=0)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, blur(picture, kernel, noise_sigma=0.01, rng=0), atol=1e-6)


def test_noise_has_its_sigma_and_its_seed():
    flat, kernel = np.full((200, 200), 0.5), np.ones((1, 1))
    noisy = blur(flat, kernel, noise_sigma=0.02, rng=5)
    assert noisy.std() == pytest.approx(0.02, rel=0.02)
    assert noisy.mean() == pytest.approx(0.5, abs=5e-4)
    np.testing.assert_array_equal(noisy, blur(flat, kernel, noise_sigma=0.02, rng=5))
    assert np.abs(noisy - blur(flat, kernel, noise_sigma=0.02, rng=6)).max() > 0.01


def test_blur_refuses(picture):
    kernel = np.full((3, 3), 1 / 9)
    with pytest.raises(TypeError, match="image must be float32 or float64, got uint8"):
        blur((picture * 255).astype(np.uint8), kernel)
    with pytest.raises(ValueError, match=r"kernel must be 2-D with odd sides, got shape \(4, 3\)"):
        blur(picture, np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"kernel must fit into the image, got \(25, 3\) for \(23, 30\)"):
        blur(picture, np.ones((25, 3)))
    with pytest.raises(ValueError, match="mode must be one of 'valid', 'same', 'wrap', got 'full'"):
        blur(picture, kernel, mode="full")
    with pytest.raises(ValueError, match="rng must be a generator or a seed when noise_sigma is above 0"):
        blur(picture, kernel, noise_sigma=0.1)
    with pytest.raises(ValueError, match=r"noise_sigma must be at least 0, and finite, got -0\.1"):
        blur(picture, kernel, noise_sigma=-0.1, rng=0)
    with pytest.raises(ValueError, match="image must have at least 2 axes"):
        blur(picture[0], kernel)
