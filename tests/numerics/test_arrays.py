"""Laws of the functions that work on arrays of either library."""

from __future__ import annotations

from typing import Any

import numpy as np
from laws import assert_close, assert_same

from gpudeblur.numerics.arrays import (
    Clock,
    constant,
    dtype_on,
    move,
    replayed,
    side_by_side,
    stack,
    sum_pixels,
    to_host_together,
)


def test_small_arrays_come_to_the_host_together(xp: Any) -> None:
    """Each of its own shape and dtype."""
    arrays: list[Any] = [np.array(3, "float32"), np.arange(4.0).reshape(2, 2), np.zeros((0, 3), np.float32)]
    result = to_host_together(xp, [xp.asarray(array) for array in arrays])
    for host, array in zip(result, arrays, strict=True):
        assert (host.shape, host.dtype) == (array.shape, array.dtype)
        assert_same(host, array)


def test_arrays_are_stacked(xp: Any) -> None:
    arrays = list(np.random.default_rng(0).random((11, 2, 3)))
    assert_same(stack([xp.asarray(array) for array in arrays]), np.stack(arrays))


def test_pixels_are_summed(xp: Any) -> None:
    u = np.random.default_rng(0).random((3, 40, 50))
    assert_close(sum_pixels(xp.asarray(u)), u.sum(axis=(1, 2)))
    assert_same(sum_pixels(xp.asarray(u > 0.5)), (u > 0.5).sum(axis=(1, 2)))


def test_a_constant_is_what_its_function_makes(xp: Any) -> None:
    assert_same(constant(xp, np.arange, 5), np.arange(5))
    assert isinstance(constant(xp, np.arange, 5), xp.ndarray)


def test_dtypes_that_a_device_lacks() -> None:
    for dtype in (">f4", "longdouble", "uint8"):
        assert dtype_on(np, np.dtype(dtype)) == np.dtype(dtype)  # NumPy has them all
    dtypes = (">f4", "longdouble", "u1", ">i2")
    assert [dtype_on(None, np.dtype(dtype)).str for dtype in dtypes] == ["<f4", "<f8", "|u1", "<i2"]


def test_a_numpy_array_stays_itself() -> None:
    u = np.zeros(3, ">f4")
    assert move(u, np) is u


def test_functions_side_by_side_and_replayed_are_called_as_they_are(xp: Any) -> None:
    fractions: list[float] = []

    def function(u: Any, *, report: Any) -> tuple[Any, ...]:
        report(0.5)
        return tuple(side_by_side(xp, [lambda: u + 1, lambda: u + 2]))

    plus_1, plus_2 = replayed("key", function, xp.zeros(3), report=fractions.append)  # float64: no graph
    assert_same(plus_1, np.ones(3))
    assert_same(plus_2, 2 * np.ones(3))
    assert fractions == [0.5]


def test_a_clock_goes_on(xp: Any) -> None:
    clock = Clock(xp)
    moments = [clock.now(), clock.now()]
    float(xp.zeros(1)[0])  # the host waits for a device
    first, second = map(clock.seconds, moments)
    assert 0 <= first <= second < 100
