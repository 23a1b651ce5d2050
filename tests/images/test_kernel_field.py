"""`KernelField`: its checks, its interpolation, parts of it, files; pictures of kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same

import gpudeblur as gd
from gpudeblur.numerics.arrays import to_host

SHAPE = (40, 61)


def random_field(
    counts: tuple[int, int] = (3, 4), sides: tuple[int, int] = (5, 7), shape: tuple[int, int] = SHAPE, xp: Any = np
) -> gd.KernelField:
    return gd.KernelField(xp.asarray(np.random.default_rng(0).random((*counts, *sides))), shape)


def test_zeros_around_all_kernels_are_left_out(xp: Any) -> None:
    kernels = np.zeros((2, 3, 9, 7))
    kernels[..., 4, 3], kernels[1, 2, 5, 2], kernels[0, 0, 2, 3] = 1, 0.5, 0.5
    field = gd.KernelField(xp.asarray(kernels), (40, 50))
    trimmed = field.prepared(np.float64)
    assert isinstance(trimmed, gd.KernelField)
    assert trimmed.kernels.shape == (2, 3, 5, 3)
    assert_same(trimmed.kernels, field.kernels[..., 2:7, 2:5])
    assert field.kernels.shape == (2, 3, 9, 7)


def test_kernels_are_prepared_as_a_single_one_is(xp: Any) -> None:
    given = xp.asarray(np.random.default_rng(0).integers(0, 9, (2, 3, 4, 6)).astype(np.uint8))
    field = gd.KernelField(given, [40, np.int64(61)])  # type: ignore[arg-type]
    assert field.kernels.shape == (2, 3, 5, 7)
    assert field.kernels.dtype == np.float64
    assert_close(field.kernels.sum(axis=(-2, -1)), np.ones((2, 3)))
    assert_close(field.kernels[..., :4, :6] * given.sum(axis=(-2, -1), keepdims=True), given, atol=1e-12)
    assert field.shape == (40, 61)
    assert all(type(side) is int for side in field.shape)
    assert_same(field.positions[0], np.array([0.0, 39.0]))
    assert_same(field.positions[1], np.array([0.0, 30.0, 60.0]))


def test_a_single_node_is_in_the_middle() -> None:
    field = random_field((1, 1))
    assert [at.tolist() for at in field.positions] == [[19.5], [30.0]]
    for point in ((0, 0), (39, 60), (19.5, 30)):
        assert_same(field.at(point), field.kernels[0, 0])


def test_at_is_bilinear(xp: Any) -> None:
    field = random_field(xp=xp)
    kernels = to_host(field.kernels)
    assert_close(field.at([[0, 0], [39, 60], [19.5, 20]]), kernels[[0, 2, 1], [0, 3, 1]], atol=1e-15)
    between = 0.75 * (0.5 * kernels[0, 1] + 0.5 * kernels[1, 1]) + 0.25 * (0.5 * kernels[0, 2] + 0.5 * kernels[1, 2])
    assert_close(field.at((9.75, 25)), between, rtol=1e-12)
    assert field.at(np.zeros((2, 5, 2))).shape == (2, 5, 5, 7)
    assert_close(field.at([-8.0, 99.0]), kernels[0, 3])
    assert_same(field.centre, field.at((19.5, 30)))


@pytest.mark.parametrize(
    "window", [(slice(0, 40), slice(0, 61)), (slice(5, 6), slice(7, 30)), (slice(20, 40), slice(41))]
)
def test_a_part_has_the_same_kernel_at_each_pixel(window: tuple[slice, slice]) -> None:
    field = random_field()
    part = field.crop(window)
    assert part.shape == np.zeros(SHAPE)[window].shape
    first = np.array([at.start or 0 for at in window])
    points = np.moveaxis(np.indices(part.shape), 0, -1)
    assert_close(part.at(points), field.at(points + first), atol=1e-15)
    again = part.crop((slice(None), slice(3, 9)))
    assert_close(again.at((0, 0)), field.at(first + np.array([0, 3])), atol=1e-15)


def test_a_part_has_only_nodes_that_reach_it() -> None:
    field = random_field((14, 21))
    part = field.crop((slice(10, 20), slice(31, 34)))
    assert part.kernels.shape[:2] == (5, 2)
    assert np.shares_memory(part.kernels, field.kernels)


def test_files_hold_the_field(tmp_path: Path, xp: Any) -> None:
    field = random_field(xp=xp).crop((slice(3, 30), slice(10, 50)))
    field.save(tmp_path / "field.npz")
    loaded = gd.KernelField.load(str(tmp_path / "field.npz"))
    assert_close(loaded.kernels, field.kernels, rtol=1e-15)
    assert loaded.shape == field.shape
    for a, b in zip(loaded.positions, field.positions, strict=True):
        assert_same(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["field.npz"]


def test_files_that_are_no_field(tmp_path: Path) -> None:
    path = tmp_path / "field.npz"
    random_field().save(path)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:200] + bytes(200) + data[400:], b"PK"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"field.npz is damaged or truncated and cannot be read \(.*get a fresh"):
            gd.KernelField.load(path)
    for other in (b"", b"\x93NUMPY not a zip file"):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=r"field.npz must be a .npz file that KernelField.save wrote"):
            gd.KernelField.load(path)
    np.savez(path, kernels=np.ones((1, 1, 3, 3)))
    with pytest.raises(ValueError, match=r"field.npz must be a file that KernelField.save wrote, but has no .*shape"):
        gd.KernelField.load(path)
    np.savez(path, kernels=np.array([{}]), shape=[1], rows=[0], columns=[0])
    with pytest.raises(ValueError, match=r"field.npz is damaged .*pickle"):
        gd.KernelField.load(path)
    for shape, kernels, message in ((5, ONES, "shape must be two"), ((9, 9), -ONES, "kernels must not be negative")):
        np.savez(path, kernels=kernels, shape=shape, rows=[0, 9], columns=[0, 9])
        with pytest.raises(ValueError, match=rf"field.npz holds no kernel field: {message}"):
            gd.KernelField.load(path)
    with pytest.raises(FileNotFoundError):
        gd.KernelField.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"output file must end in .npz, got '.npy'"):
        random_field().save(tmp_path / "field.npy")
    with pytest.raises(FileNotFoundError, match=r"output folder .* does not exist"):
        random_field().save(tmp_path / "none" / "field.npz")


ONES = np.ones((2, 2, 3, 3))
POSITIONS = (np.array([0.0, 9.0]), np.array([0.0, 9.0]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((3, 3)), SHAPE), ValueError, r"kernels must be \(gy, gx, kh, kw\), .* got 2 axes \(shape \(3, 3\)\)"),
        (([[1.0]], SHAPE), TypeError, "kernels must be a NumPy or CuPy array, got list; convert it"),
        ((ONES > 0, SHAPE), TypeError, "kernels must have an integer or float dtype, got bool"),
        ((-ONES, SHAPE), ValueError, "kernels must not be negative, got a minimum of -1; clip them with numpy.maximum"),
        ((0 * ONES, SHAPE), ValueError, "kernels must not sum to zero"),
        ((ONES * np.nan, SHAPE), ValueError, "kernels must be finite, got nan at index"),
        ((ONES[:0], SHAPE), ValueError, "kernels must not be empty"),
        ((ONES, (40,)), ValueError, r"shape must be two positive integers \(H, W\), got \(40,\); use image.shape"),
        ((ONES, (40, 0)), ValueError, "shape must be two positive integers"),
        ((ONES, (40, 61.0)), ValueError, "shape must be two positive integers"),
        ((ONES, (40, 61, 3)), ValueError, "shape must be two positive integers"),
        ((ONES, 40), ValueError, "shape must be two positive integers"),
        (
            (ONES, (1, 61)),
            ValueError,
            "kernels must not have more rows of nodes than the image has pixels, got 2 for 1",
        ),
        ((ONES, (40, 1)), ValueError, "kernels must not have more columns of nodes than"),
        ((ONES, SHAPE, 5), TypeError, r"nodes must be a pair \(rows, columns\) of positions in pixels, got 5"),
        ((ONES, SHAPE, (*POSITIONS, 1)), TypeError, "nodes must be a pair"),
        ((ONES, SHAPE, ("ab", [0, 1])), TypeError, "nodes must be a pair"),
        (
            (ONES, SHAPE, ([0.0], POSITIONS[1])),
            ValueError,
            r"nodes must have 2 rows, .* got shape \(1,\); leave it out",
        ),
        (
            (ONES, SHAPE, (POSITIONS[0], [0, 0.5])),
            ValueError,
            "nodes must be finite, and each of the columns at least 1",
        ),
        ((ONES, SHAPE, (POSITIONS[0], [9, 0])), ValueError, "nodes must be finite, and each of the columns at least 1"),
        ((ONES, SHAPE, (POSITIONS[0], [9, np.inf])), ValueError, "nodes must be finite"),
    ],
)
def test_what_a_field_refuses(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gd.KernelField(*arguments)


def test_what_its_members_refuse() -> None:
    field = random_field()
    for points in (3, (1, 2, 3), (1, np.nan)):
        with pytest.raises(ValueError, match=r"points must be finite pairs \(row, column\), got"):
            field.at(points)
    for window in ((slice(0, 9, 2), slice(9)), (slice(5, 5), slice(9)), (slice(99, 120), slice(9))):
        with pytest.raises(
            ValueError, match=r"window must be two slices without a step that hold a pixel of \(40, 61\)"
        ):
            field.crop(window)
    with pytest.raises(AttributeError):
        field.shape = (1, 1)  # type: ignore[misc]


def test_show_kernels(xp: Any) -> None:
    """Each kernel is scaled to its own maximum; lines of a pixel separate them."""
    kernels = np.zeros((2, 3, 3, 5))
    kernels[..., 1, 2] = 1
    kernels[0, 1, 1] = [0, 1, 2, 1, 0]
    out = to_host(gd.show_kernels(gd.KernelField(xp.asarray(kernels), (20, 30))))
    assert out.dtype == np.uint8
    assert out.shape == (7, 17)
    assert (out[3] == 64).all()
    assert (out[:, [5, 11]] == 64).all()
    assert out[1, 6:11].tolist() == [0, 128, 255, 128, 0]
    assert out[5, 2] == 255
    assert int((out == 255).sum()) == 6
    single = to_host(gd.show_kernels(xp.asarray(kernels[0, 1])))
    assert_same(single, out[:3, 6:11])


def test_show_kernels_refuses_a_stack() -> None:
    with pytest.raises(ValueError, match=r"kernel must be \(kh, kw\), got shape \(2, 3, 3\); make it a KernelField"):
        gd.show_kernels(np.ones((2, 3, 3)))
