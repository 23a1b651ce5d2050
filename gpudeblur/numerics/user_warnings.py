"""Warnings that point at the user's line, however deep in this package they arise."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


def warn(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """`warnings.warn`, attributed to the innermost caller outside this package.

    That is what `skip_file_prefixes` does from Python 3.12 on.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
