"""A warning points at the user's line."""

from __future__ import annotations

import numpy as np
import pytest

from gpudeblur.images.checks import check_range
from gpudeblur.numerics.user_warnings import warn


def test_a_warning_names_the_first_file_outside_the_package() -> None:
    with pytest.warns(UserWarning, match="image has values up to 255") as caught:
        check_range(np.full((2, 2), 255.0))  # two calls deep
    with pytest.warns(RuntimeWarning, match="directly") as caught_directly:
        warn("directly", RuntimeWarning)
    assert caught[0].filename == caught_directly[0].filename == __file__
