"""Laws of the synthetic kernels and of the blur: sums, supports, seeds, centring, convolution sense."""

import re

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudeblur.numerics.varying_blur import VaryingBlur
from gpudeblur.synthesis import (
    blur,
    blur_by_poses,
    disk_kernel,
    gaussian_kernel,
    gaussian_process_kernel,
    linear_kernel,
    pose_path,
    rotation_field,
    trajectory_kernel,
)

RANDOM = [trajectory_kernel, gaussian_process_kernel]
PICTURE = np.random.default_rng(0).random((23, 30))
SIZES = [3, 5, 7, 9, 11, 21, 31, 41, 61]


def extent(kernel, threshold=0.01):
    """The larger side, in pixels, of the support above a fraction of the maximum."""
    support = kernel > threshold * kernel.max()
    return max(np.ptp(np.flatnonzero(support.any(axis=axis))) + 1 for axis in (0, 1))


@pytest.mark.parametrize("make", RANDOM)
@pytest.mark.parametrize("size", SIZES)
def test_random_kernels_are_blur_kernels(make, size):
    """Which span their size less the margin."""
    for seed in range(12 if size > 9 else 8):
        kernel = make(size, rng=seed)
        assert kernel.shape == (size, size)
        assert kernel.dtype == np.float64
        assert kernel.min() >= 0
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        if size > 9:
            assert size - 6 <= extent(kernel) <= size - 4
            assert extent(kernel, threshold=0) <= size - 4 + 1
            assert np.abs(np.subtract(scipy.ndimage.center_of_mass(kernel), size // 2)).max() <= max(2, size / 16)


@pytest.mark.parametrize("radius", [0.3, 0.5, 1.0, 2.3, 7.5, 20.0])
def test_a_disk_weighs_pixels_by_their_area(radius):
    kernel = disk_kernel(radius)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-15)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-15)
    assert len(kernel) == max(2 * np.ceil(radius - 0.5) + 1, 1)
    y = np.arange(len(kernel)) - len(kernel) // 2
    near = np.hypot(*np.meshgrid(abs(y) + 0.5, abs(y) + 0.5)) <= radius
    np.testing.assert_allclose(kernel[near], 1 / (np.pi * radius**2), rtol=2e-3)
    if radius > 1:  # a disk has the second moment radius^2 / 4, a pixel adds 1 / 12
        assert kernel.sum(axis=0) @ y**2 == pytest.approx(radius**2 / 4 + 1 / 12, rel=2e-2)
    np.testing.assert_allclose(disk_kernel(radius, 45)[22, 22], kernel.max(), rtol=1e-9)


@pytest.mark.parametrize("sigma", [0.8, 1.0, 2.5])
def test_a_gaussian_has_its_variance(sigma):
    kernel = gaussian_kernel(sigma)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1].T, atol=1e-15)
    y = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum(axis=0) @ y**2 == pytest.approx(sigma**2 + 1 / 12, rel=2e-2)
    wide = gaussian_kernel(sigma, 31)
    np.testing.assert_allclose(wide[15, 15], kernel.max(), rtol=2e-3)
    assert gaussian_kernel(sigma, 3, dtype="float32").shape == (3, 3)
    # Two in a row are one of the summed variances; the pixel counts twice.
    twice = scipy.ndimage.convolve(gaussian_kernel(sigma, 61), gaussian_kernel(sigma, 61), mode="constant")
    assert twice.sum(axis=0) @ (np.arange(61) - 30) ** 2 == pytest.approx(2 * sigma**2 + 2 / 12, rel=2e-2)


@pytest.mark.parametrize("make", RANDOM)
def test_margin_and_width_matter(make):
    assert extent(make(31, rng=1, margin=8), threshold=0) <= 16
    assert extent(make(31, rng=1, margin=0)) >= 29
    # The same path, thicker: less peaked.
    assert make(31, rng=1, width=1.5).max() < make(31, rng=1, width=0.0).max()


@pytest.mark.parametrize("make", RANDOM)
def test_seed_and_dtype_decide(make):
    kernel = make(25, rng=7)
    np.testing.assert_array_equal(kernel, make(25, rng=7))
    np.testing.assert_array_equal(kernel, make(25, rng=np.random.default_rng(7)))
    assert np.abs(kernel - make(25, rng=8)).max() > 1e-3
    generator = np.random.default_rng(7)
    first, second = make(25, rng=generator), make(25, rng=generator)
    np.testing.assert_array_equal(kernel, first)
    assert np.abs(first - second).max() > 1e-3
    single = make(25, rng=7, dtype=np.float32)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, kernel.astype(np.float32))


def test_trajectory_parameters_matter():
    def path(**changes):
        return trajectory_kernel(41, rng=3, **{"perturbation": 2.0, **changes})

    for changes in ({"perturbation": 5.0}, {"inertia": 0.0}, {"jerks": 20.0}, {"speed_variation": 0.0}):
        assert np.abs(path() - path(**changes)).max() > 1e-3


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


# ------------------------------------------------------------------ blur
@pytest.mark.parametrize("size", [(5, 3), (7, 7), (1, 1)])
@pytest.mark.parametrize(("mode", "scipys"), [("valid", "wrap"), ("same", "reflect"), ("wrap", "wrap")])
def test_blur_is_scipys_convolution(size, mode, scipys):
    """Of each picture of a stack: a point becomes the kernel, not its mirror image."""
    kernel, stack = np.random.default_rng(1).random(size), np.stack([PICTURE, PICTURE**2, 0 * PICTURE])[None]
    result = blur(stack, kernel, mode=mode)
    rows, columns = (side // 2 if mode == "valid" else 0 for side in size)
    expected = scipy.ndimage.convolve(stack, kernel[None, None], mode=scipys)[
        ..., rows : 23 - rows, columns : 30 - columns
    ]
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=1e-13)
    np.testing.assert_allclose(blur(stack[0, 1], kernel, mode=mode), result[0, 1], atol=1e-14)


def test_blur_keeps_float32():
    kernel = trajectory_kernel(7, rng=0)
    result = blur(PICTURE.astype(np.float32), kernel, noise_sigma=0.01, rng=0)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, blur(PICTURE, kernel, noise_sigma=0.01, rng=0), atol=1e-6)


def test_noise_has_its_sigma_and_its_seed():
    flat, kernel = np.full((200, 200), 0.5), np.ones((1, 1))
    noisy = blur(flat, kernel, noise_sigma=0.02, rng=5)
    assert noisy.std() == pytest.approx(0.02, rel=0.02)
    assert noisy.mean() == pytest.approx(0.5, abs=5e-4)
    np.testing.assert_array_equal(noisy, blur(flat, kernel, noise_sigma=0.02, rng=5))
    assert np.abs(noisy - blur(flat, kernel, noise_sigma=0.02, rng=6)).max() > 0.01


# ------------------------------------------------------------------ what is refused
BOX = np.full((3, 3), 1 / 9)
RANDOM_REFUSED: list[tuple[float, dict[str, object], str]] = [
    (24, {}, "size must be odd and at least 3, got 24; use 25"),
    (-5, {}, "size must be odd and at least 3, got -5; use 3"),
    (25.0, {}, "size must be an odd integer, got 25.0"),
    (11, {"margin": 6}, "margin must leave a pixel of the kernel, got 6 for size 11"),
    (11, {"width": 4}, "width must fit into the kernel, got 4 for size 11"),
    (25, {"dtype": np.int64}, "dtype must be float32 or float64, got int64"),
]
REFUSED = [
    *((make, size, {"rng": 0, **options}, message) for make in RANDOM for size, options, message in RANDOM_REFUSED),
    (trajectory_kernel, 41, {"rng": 3, "jerks": -1}, "jerks must be at least 0, and finite, got -1"),
    (gaussian_process_kernel, 21, {"rng": 0, "length_scale": 0}, "length_scale must be above 0, and finite, got 0"),
    (linear_kernel, 0.5, {"angle": 0}, "length must be at least 1 pixel, and finite, got 0.5"),
    (linear_kernel, 5, {"angle": float("nan")}, "angle must be in degrees, and finite, got nan"),
    (linear_kernel, 15, {"angle": 0, "size": 9}, "size must hold the motion of length 15, got 9; use 15 or more"),
    (
        linear_kernel,
        1e300,
        {"angle": 0},
        "a kernel must be at most 4001 pixels wide, got the motion of length",
    ),
    (disk_kernel, 5, {"size": 9}, "size must hold the disk of radius 5, got 9; use 11 or more"),
    (disk_kernel, 0, {}, "radius must be above 0, and finite, got 0"),
    (gaussian_kernel, -1, {}, "sigma must be above 0, and finite, got -1"),
    (
        gaussian_kernel,
        1e9,
        {},
        "a kernel must be at most 4001 pixels wide, got a Gaussian of sigma 1e+09",
    ),
    (trajectory_kernel, 9, {"rng": "x"}, "rng must be a numpy.random.Generator or a seed, an int from 0 on, got 'x'"),
    (blur, PICTURE, {"kernel": BOX, "noise_sigma": 1, "rng": -1}, "rng must be a numpy.random.Generator or a seed, an"),
    (linear_kernel, 15, {"angle": 0, "size": 16}, "size must be odd and at least 1, got 16; use 17"),
    (blur, np.ones((9, 9), np.uint8), {"kernel": BOX}, "image must be float32 or float64, got uint8"),
    (blur, PICTURE, {"kernel": np.ones((4, 3))}, "kernel must be 2-D with odd sides, got shape (4, 3)"),
    (blur, PICTURE, {"kernel": np.ones((25, 3))}, "kernel must fit into the image, got (25, 3) for (23, 30)"),
    (blur, np.ones((23, 30, 3)), {"kernel": np.ones((3, 3))}, "image must end in rows and columns, (..., H, W), got"),
    (blur, PICTURE, {"kernel": BOX, "mode": "full"}, "mode must be one of 'valid', 'same', 'wrap', got 'full'"),
    (blur, PICTURE, {"kernel": BOX, "noise_sigma": 0.1}, "rng must be a generator or a seed when noise_sigma is above"),
    (blur, PICTURE, {"kernel": BOX, "noise_sigma": -0.1}, "noise_sigma must be at least 0, and finite, got -0.1"),
    (blur, PICTURE[0], {"kernel": BOX}, "image must have at least 2 axes"),
]


@pytest.mark.parametrize(("function", "argument", "options", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(function, argument, options, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        function(argument, **options)


SHARP = scipy.ndimage.gaussian_filter(np.random.default_rng(1).random((120, 150)), 1.0)


@pytest.mark.parametrize(("length", "roll"), [(18, 6), (9.5, 0), (0, 4)])
def test_pose_paths_have_their_spans_and_mean_0(length, roll):
    path = pose_path((91, 121), length, roll, rng=3)
    assert path.shape == (400, 3)
    assert np.abs(path.mean(axis=0)).max() < 1e-12
    assert np.ptp(path[:, :2], axis=0).max() == pytest.approx(length)
    assert np.ptp(path[:, 2]) * np.hypot(90, 120) / 2 == pytest.approx(roll)
    np.testing.assert_array_equal(path, pose_path((91, 121), length, roll, rng=3))
    assert np.abs(np.diff(path[:, 0])).max() <= 0.03 * length + 1e-12, "smooth"


def test_one_pose_shifts_and_none_leaves_the_image():
    shifted = blur_by_poses(SHARP, np.array([[3.0, -2.0, 0.0]]), np.inf, margin=5)
    np.testing.assert_allclose(shifted, SHARP[3:-7, 8:-2], atol=1e-12)
    np.testing.assert_allclose(blur_by_poses(SHARP, np.zeros((2, 3)), 100.0), SHARP, atol=1e-12)


def test_blur_by_poses_keeps_constants_and_adds_noise():
    path = pose_path((100, 130), 8, 5, rng=0)
    flat = blur_by_poses(np.full((120, 150), 0.4), path, 120.0)
    np.testing.assert_allclose(flat, 0.4, atol=1e-12)
    noisy = blur_by_poses(np.full((120, 150), 0.4), path, 120.0, noise_sigma=0.01, rng=1)
    assert noisy.std() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("focal", "roll"), [(150.0, 8), (np.inf, 5), (120.0, 0)])
def test_the_field_of_a_path_blurs_as_its_poses_do(focal, roll):
    """Efficient filter flow against each pixel's own homography; a coarse grid is worse."""
    path, margin = pose_path((80, 110), 9, roll, rng=7), 20
    exact = blur_by_poses(SHARP, path, focal, margin=margin)
    errors = []
    for grid in (None, (2, 2)):
        field = rotation_field(path, focal, exact.shape, 31, grid)
        operator = VaryingBlur(field.kernels, field.positions, exact.shape, np.float64)
        errors.append(np.sqrt(np.mean((operator.blur(SHARP[5:-5, 5:-5]) - exact) ** 2)))
    assert errors[0] <= 0.002
    assert errors[0] < errors[1]
    if roll == 0:
        assert field.centre[15].max() > 0
    np.testing.assert_allclose(field.kernels.sum(axis=(-2, -1)), 1)


def test_a_shift_in_the_plane_is_one_kernel():
    path = pose_path((80, 110), 9, 0, rng=7)
    field = rotation_field(path, np.inf, (80, 110), 21)
    assert field.kernels.shape == (1, 1, 21, 21)
    x = SHARP[:100, :130]
    np.testing.assert_allclose(blur(x, field.centre), blur_by_poses(x, path, np.inf, margin=10), atol=1e-12)


PATH = np.array([[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: pose_path((9, 9), -1, 0, rng=0), "length must be at least 0 pixels, and finite, got -1"),
        (lambda: pose_path((9, 9), 1, np.nan, rng=0), "roll must be at least 0 pixels, and finite, got nan"),
        (lambda: pose_path((9, 9), 1, 1, rng=0, samples=1), "samples must be an integer of at least 2, got 1"),
        (lambda: pose_path((9, 9), 1, 1, rng=0, length_scale=0), "length_scale must be above 0"),
        (lambda: rotation_field(PATH, 0.0, (9, 9), 5), "focal must be positive, in pixels, got 0.0"),
        (lambda: rotation_field(PATH, np.inf, (9, 9), 7), "size must hold the motion .* got 7; use 9 or more"),
        (lambda: rotation_field(PATH, np.inf, (9, 9), 8), "size must be an odd integer, got 8"),
        (lambda: rotation_field(PATH[:, :2], np.inf, (9, 9), 9), r"path must be finite poses .* got shape \(2, 2\)"),
        (
            lambda: blur_by_poses(SHARP, PATH, np.inf, margin=3),
            "margin must be at least .* got 3; use 4",
        ),
        (lambda: blur_by_poses(SHARP[:8], PATH, np.inf), "sharp must exceed the path's reach, 4 pixels"),
        (lambda: blur_by_poses(SHARP[None], PATH, np.inf), r"sharp must be \(H, W\), got shape \(1, 120, 150\)"),
        (lambda: blur_by_poses(SHARP, PATH, np.inf, noise_sigma=0.1), "rng must be a generator or a seed"),
    ],
)
def test_bad_input_of_poses(call, text):
    with pytest.raises(ValueError, match=text):
        call()
