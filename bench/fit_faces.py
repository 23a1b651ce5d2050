"""Fits what `restore` takes of a network's picture, and the mixture of "face".

    python -m bench fit mixture --data DATA
    python -m bench fit networks --data DATA

mixture: the scores of `blind.face`, by the PSNR of the mean that they give. networks: confidence and strength of
`networks.confidence` for each network and for "face", which comes after its mixture.

Fitted to the sets A, C, D and E of `python -m bench networks faces` for choosing (faces 7501 to 7900, training
photographs, pages), and to such faces with Levin's kernels, centered. Every set counts the same. A loss counts twice,
and what it is over 0.3 dB six times. A picture without noise has no PSNR to lose from: its count from 42 dB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from gpudeblur.blind import face
from gpudeblur.networks import catalog, confidence
from gpudeblur.networks.restore import face_probability, load, restore_images

from .cases import levin_kernels
from .evaluate import parallel
from .face_cases import (
    FaceCase,
    blurred_case,
    centred_kernel,
    color_picture,
    faces,
    linear_cases,
    other_cases,
    own_kernel_cases,
    sharp_cases,
)

FLOOR = 10**-4.2  # mean square error that counts as none
LOSS, GREAT_LOSS, GREAT = 1.0, 4.0, 0.3  # what a dB of loss counts more than one of gain, and more again from 0.3 dB
RIDGE = 1e-3
NOT_MIXED = "other"  # the mixture is for faces; the share of it in a result is fitted to other pictures too
COUNTS = {"own kernels": 45, "linear": 20, "sharp": 20, "other": 25, "levin": 6}  # pictures of each set


def levin_cases(folder: Path, limit: int) -> Iterator[FaceCase]:
    """Small faces for choosing, each with Levin's eight kernels, centered; 8 bit."""
    kernels = [centred_kernel(kernel) for kernel in levin_kernels(folder)]
    for path in faces(folder, True, limit):
        sharp = color_picture(path)
        for number, kernel in enumerate(kernels):
            name = f"fit_{path.stem}_levin{number}"
            yield blurred_case(
                name, sharp, kernel, group="levin", picture=path.stem, noise=0.003 * (number % 4), quantise=True
            )


def sets(folder: Path, counts: Mapping[str, int] = COUNTS) -> dict[str, list[FaceCase]]:
    makers = {"own kernels": own_kernel_cases, "linear": linear_cases, "sharp": sharp_cases, "other": other_cases}
    result = {name: list(make(folder, True, counts[name])) for name, make in makers.items()}
    result["other"] = [case for case in result["other"] if case.blurred.shape[0] * case.blurred.shape[1] < 40_000]
    return result | {"levin": list(levin_cases(folder, counts["levin"]))}


def planes(picture: np.ndarray) -> np.ndarray:
    """(1, C, H, W) float32."""
    return np.moveaxis(np.atleast_3d(picture), -1, 0)[None].astype(np.float32)


def gram(images: list[np.ndarray], sharp: np.ndarray) -> np.ndarray:
    """Mean products of the errors of images, (m, m): w^T G w is the mean square error of their mean with weights w."""
    errors = np.stack([(image - sharp).ravel() for image in images]).astype(np.float64)
    return errors @ errors.T / errors.shape[1]


def mixture_sample(case: FaceCase) -> tuple[np.ndarray, np.ndarray, float]:
    """(features (m, f), error products (m, m), mean square error of the blurred picture)."""
    observed, sharp = planes(case.blurred), planes(case.sharp)
    images, _, features = face.candidates(observed, None, lambda fraction: None)
    return features[0].astype(np.float64), gram(images, sharp), float(np.square(observed - sharp).mean())


def share_sample(job: tuple[str, FaceCase]) -> tuple[np.ndarray, np.ndarray]:
    """(features (f,), products of the errors of the blurred picture and the restored one (2, 2))."""
    name, case = job
    observed, sharp = planes(case.blurred), planes(case.sharp)
    if name == "face":
        restored, _ = face.restore_faces(observed, None, lambda fraction: None)
    else:
        restored, _ = restore_images(load(name, None), observed)
    signals = confidence.signals(restored, observed)
    features = confidence.features(**signals, face=face_probability(observed))
    return features[0].astype(np.float64), gram([observed, restored], sharp)


def worth(gain: np.ndarray) -> np.ndarray:
    return gain - LOSS * np.maximum(-gain, 0) - GREAT_LOSS * np.maximum(-GREAT - gain, 0)


def gains(products: np.ndarray, weights: np.ndarray, before: np.ndarray) -> np.ndarray:
    """dB over the blurred pictures of the means with weights (n, m)."""
    error = np.einsum("nij,ni,nj->n", products, weights, weights)
    return 10 * np.log10((before + FLOOR) / (error + FLOOR))


def set_weights(names: list[str]) -> np.ndarray:
    """Of each sample, so that every set counts the same."""
    return np.array([1 / names.count(name) for name in names]) / len(set(names))


def fit_mixture(data: Path, jobs: int) -> dict[str, Any]:
    groups = sets(data)
    names, cases = [name for name in groups for _ in groups[name]], [case for name in groups for case in groups[name]]
    samples = list(parallel(mixture_sample, cases, jobs))
    features, products, before = (np.stack(column) for column in zip(*samples, strict=True))
    center, spread = features.mean(axis=(0, 1)), features.std(axis=(0, 1))
    center[0], spread[0] = 0, 1
    spread[spread == 0] = 1
    standard = (features - center) / spread
    count = set_weights(names) * [name != NOT_MIXED for name in names]

    def loss(scores: np.ndarray) -> float:
        weights = face.mixture(standard, scores.reshape(features.shape[1:]))
        return -float(count @ worth(gains(products, weights, before))) + RIDGE * float(np.square(scores).sum())

    fitted = minimize(loss, np.zeros(features.shape[1] * features.shape[2])).x.reshape(features.shape[1:])
    scores = fitted / spread
    scores[:, 0] = fitted[:, 0] - (fitted / spread)[:, 1:] @ center[1:]
    table = [[round(float(score), 3) for score in row] for row in scores]
    print("SCORES =", table)
    line: dict[str, Any] = {"scores": table}
    ways = {label: np.tile(np.eye(4)[i], (len(cases), 1)) for i, label in enumerate(face.CANDIDATES)}
    ways |= {"mean": np.full((len(cases), 4), 0.25), "mixture": face.mixture(features, np.array(table))}
    for label, weights in ways.items():
        gain = gains(products, weights, before)
        line[label] = summary(names, gain)
        print(f"{label}: {line[label]}")
    return line


def fit_networks(data: Path, jobs: int) -> dict[str, Any]:
    groups = sets(data)
    names, cases = [name for name in groups for _ in groups[name]], [case for name in groups for case in groups[name]]
    count, line = set_weights(names), dict[str, Any]()
    available = [name for name in catalog.NETWORKS if catalog.shipped_weights(name).exists()]
    for network in (*available, "face"):
        samples = list(parallel(share_sample, [(network, case) for case in cases], jobs))
        features, products = (np.stack(column) for column in zip(*samples, strict=True))
        before = products[:, 0, 0]
        full = gains(products, np.tile([0.0, 1.0], (len(cases), 1)), before)
        center, spread = features.mean(axis=0), features.std(axis=0)
        center[0], spread[0] = 0, 1
        spread[spread == 0] = 1
        standard = (features - center) / spread

        def share(weights: np.ndarray, table: np.ndarray) -> np.ndarray:
            return 1 / (1 + np.exp(-np.clip(table @ weights, -30, 30)))

        def mixed(shares: np.ndarray, products: np.ndarray = products, before: np.ndarray = before) -> np.ndarray:
            return gains(products, np.stack([1 - shares, shares], axis=1), before)

        def strength_loss(weights: np.ndarray, table: np.ndarray = standard, mixed: Any = mixed) -> float:
            shares = np.minimum(confidence.STRENGTH_SCALE * share(weights, table), 1)
            return -float(count @ worth(mixed(shares))) + RIDGE * float(np.square(weights[1:]).sum())

        def confidence_loss(weights: np.ndarray, table: np.ndarray = standard, full: np.ndarray = full) -> float:
            sign = np.where(full > 0, 1, -1)
            return float(count @ np.logaddexp(0, -sign * (table @ weights))) + RIDGE * float(
                np.square(weights[1:]).sum()
            )

        line[network] = {}
        for label, loss in (("confidence", confidence_loss), ("strength", strength_loss)):
            starts = [np.array([start, *[0.0] * (features.shape[1] - 1)]) for start in (-1.0, 1.0, 3.0)]
            fitted = min((minimize(loss, start, method="Powell") for start in starts), key=lambda fit: float(fit.fun)).x
            weights = fitted / spread
            weights[0] = fitted[0] - weights[1:] @ center[1:]
            line[network][label] = [round(float(weight), 3) for weight in weights]
            print(f'{label}: "{network}": ({", ".join(map(str, line[network][label]))}),')
        shares = np.minimum(confidence.STRENGTH_SCALE * share(np.array(line[network]["strength"]), features), 1)
        line[network] |= {"full": summary(names, full), "automatic": summary(names, mixed(shares))}
        print({key: line[network][key] for key in ("full", "automatic")}, flush=True)
    return line


def summary(names: list[str], gain: np.ndarray) -> dict[str, list[float]]:
    """[mean, worst] in dB of each set."""
    table = {name: gain[[other == name for other in names]] for name in dict.fromkeys(names)}
    return {name: [round(float(values.mean()), 2), round(float(values.min()), 2)] for name, values in table.items()}
