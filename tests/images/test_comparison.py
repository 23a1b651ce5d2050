"""Pictures side by side: their pixels, their order, their size."""

import numpy as np

from gpudeblur.images.comparison import GAP, LABEL_HEIGHT, MAX_SIDE, MIN_SIDE, side_by_side

KERNEL = np.eye(3) / 3


def test_pictures_stand_beside_one_another_and_the_kernels() -> None:
    a, b = np.random.default_rng(0).integers(0, 256, (2, 210, 220, 3), dtype=np.uint8)
    sheet = side_by_side({"a": a, "b": b}, {"kernel": KERNEL, "other": KERNEL})
    rows, left = slice(LABEL_HEIGHT, LABEL_HEIGHT + 210), 2 * GAP + 220
    np.testing.assert_array_equal(sheet[rows, GAP : GAP + 220], a)
    np.testing.assert_array_equal(sheet[rows, left + GAP : left + GAP + 220], b)
    side = 3 * (100 // 3)
    corner = sheet[LABEL_HEIGHT:, 2 * left + GAP :][:side, :side]
    np.testing.assert_array_equal(corner, 255 * np.kron(np.eye(3), np.ones((33, 33)))[..., None].repeat(3, 2))
    assert (sheet[:LABEL_HEIGHT, : 2 * left] < 128).any()


def test_levels_and_sizes() -> None:
    ramp = np.linspace(0, 1, 6).reshape(2, 3)
    for pixels, white in ((ramp, None), ((65535 * ramp).round().astype(np.uint16), None), (4095 * ramp, 4095.0)):
        sheet = side_by_side({"a": pixels}, white=white)
        factor = -(-MIN_SIDE // 3)
        seen = sheet[LABEL_HEIGHT : LABEL_HEIGHT + 2 * factor : factor, GAP : GAP + 3 * factor : factor]
        np.testing.assert_array_equal(seen, np.round(255 * ramp).astype(np.uint8)[..., None].repeat(3, 2))
    large = side_by_side({"a": np.full((40, 2 * MAX_SIDE), np.nan)})
    assert large.shape == (LABEL_HEIGHT + 20 + GAP, MAX_SIDE + 2 * GAP, 3)
