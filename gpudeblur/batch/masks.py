"""The masks of a batch: one for all pictures, or one a picture, read alongside the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..images import checks
from ..images.masks import without_mask
from ..numerics.arrays import move

END = object()  # in place of a mask, if there are no more
WAY_OUT = "None is a picture without a mask"


class Masks:
    """The masks of a batch, in the order of its pictures.

    Parameters
    ----------
    mask : bool array (H, W) or "nan" or None, for all pictures; or an iterable of these, one a picture, such as a bool
        array (n, H, W).
    total : the number of pictures, if it is known.
    bursts : whether the pictures are bursts: each may have a mask (N, H, W), and an array of masks 4 axes.

    Raises
    ------
    TypeError, ValueError
        `mask` is neither, or does not have `total` masks.
    """

    def __init__(self, mask: Any = None, total: int | None = None, *, bursts: bool = False) -> None:
        self._shared = _check_shared(mask, bursts)
        self._mask = mask if self._shared else None
        self._masks: Iterable[Any] = () if self._shared else mask
        self._iterator: Iterator[Any] | None = None
        count = None if self._shared else _length(mask)
        if total is not None and count is not None and count != total:
            raise ValueError(
                f"mask must be one for all pictures, or one for each of the {total}, got {count} masks; {WAY_OUT}"
            )

    def next(self, index: int) -> Any:
        """The mask of the picture `index`, the next one; ValueError if there are no more."""
        mask = self._mask if self._shared else self._take()
        if mask is END:
            raise ValueError(f"mask must be one for each picture, got {index} masks for more pictures; {WAY_OUT}")
        return mask

    def check_end(self, count: int) -> None:
        """Raise ValueError if there are more masks than these pictures."""
        if not self._shared and self._take() is not END:
            raise ValueError(f"mask must be one for each picture, got more than {count} masks for {count} pictures")

    def _take(self) -> Any:
        """The next mask of the iterable, or END."""
        if self._iterator is None:
            self._iterator, self._masks = iter(self._masks), ()
        return next(self._iterator, END)

    def close(self) -> None:
        """Close the iterator of the masks, if it has a `close` method."""
        iterator, self._iterator, self._masks = self._iterator, None, ()
        close = getattr(iterator, "close", None)
        if callable(close):
            close()


def _check_shared(mask: Any, bursts: bool) -> bool:
    """Whether the checked `mask` is one for all pictures."""
    if mask is None:
        return True
    if isinstance(mask, str):
        checks.check_choice("mask", mask, ("nan",))
        return True
    if hasattr(mask, "dtype"):
        checks.module_of(mask, "mask")
        if mask.dtype != bool:
            raise TypeError(
                f"mask must have dtype bool, True where pictures are valid, got {mask.dtype}; mask != 0 is bool"
            )
        if not 2 <= mask.ndim <= (4 if bursts else 3):
            each = "one a burst, (n, H, W) or (n, N, H, W)" if bursts else "one a picture, (n, H, W)"
            raise ValueError(
                f"mask must be one for all pictures, (H, W), or {each}, got shape {mask.shape}; it has no channels"
            )
        return bool(mask.ndim == 2)
    if not (hasattr(mask, "__iter__") or hasattr(mask, "__getitem__")):
        raise TypeError(
            f"mask must be a bool array, 'nan', or an iterable of one mask a picture, got {mask!r} "
            f"({type(mask).__name__}); {WAY_OUT}"
        )
    return False


def _length(masks: Any) -> int | None:
    try:
        return len(masks)
    except TypeError:
        return None


def mask_kind(mask: Any) -> str | None:
    """What the masks of pictures that are computed together have in common: None, "nan" or "array"."""
    return mask if mask is None or isinstance(mask, str) else "array"


def join_masks(masks: Sequence[Any]) -> Any:
    """The mask of a stack of pictures with masks of one kind; ValueError if they have no common shape (H, W)."""
    first = masks[0]
    if len(masks) == 1 or mask_kind(first) != "array":
        return first
    if any(getattr(mask, "ndim", None) != 2 for mask in masks):
        raise ValueError("masks of a stack must have the shape (H, W) each")
    return first if all(mask is first for mask in masks) else np.stack([move(mask, np) for mask in masks])


def mask_like(mask: Any, image: Any) -> Any:
    """A mask in the memory of `image`; "nan" and None as they are."""
    if mask is None or isinstance(mask, str):
        return mask
    checks.module_of(mask, "mask")
    return move(mask, checks.module_of(without_mask(image), "image"))
