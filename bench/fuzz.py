"""Mutated image and kernel files: each must be read, or refused by a ValueError that names the file.

A child process with a limit of memory reads them one after another; its parent ends it if one takes too long, and
starts another behind that file. A file is made from the seed and its number alone, so `--first` repeats it.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import io
import logging
import os
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, features

from gpudeblur.images.files import read_image, read_kernel

MEMORY = 3 << 30  # bytes of address space of a child
OUTCOMES = ("read", "refused", "other error", "crash", "endless")


def valid_files() -> dict[str, bytes]:
    """Small files of every format that can be written here, by name."""
    ramp = np.dstack(np.broadcast_arrays(np.arange(0, 240, 10)[:, None], np.arange(0, 240, 12), 90)).astype(np.uint8)
    image, deep = Image.fromarray(ramp), ramp.astype(np.uint16) * 257
    files: dict[str, bytes] = {}

    def pillow(name: str, picture: Image.Image = image, **options: Any) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, name.split(".")[-1].replace("jpg", "jpeg").replace("jp2", "jpeg2000"), **options)
        files[name] = buffer.getvalue()

    exif = Image.Exif()
    exif[271], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x920A] = 35.0
    for name in ("a.png", "a.jpg", "a.webp"):
        pillow(name, exif=exif)
    pillow("progressive.jpg", progressive=True, dpi=(240, 240), xmp=b"<x/>")
    pillow("palette.png", image.convert("P"), transparency=3)
    pillow("animated.gif", save_all=True, append_images=[image.rotate(90)])
    for name in ("a.bmp", "a.gif", "a.jp2"):
        pillow(name)
    if features.check("avif"):
        pillow("a.avif")
    files["deep.png"] = bytes(imagecodecs.png_encode(deep))
    files["deep.jp2"] = bytes(imagecodecs.jpeg2k_encode(deep, level=0))
    layouts: dict[str, dict[str, Any]] = {
        "a": {"extrasamples": None, "rowsperstrip": 7},
        "big": {"bigtiff": True},
        "lzw": {"compression": "lzw", "rowsperstrip": 5, "predictor": True},
        "deflate": {"compression": "zlib", "tile": (16, 16)},
        "jpeg": {"compression": "jpeg"},
        "packbits": {"compression": "packbits", "byteorder": ">"},
    }
    for name, options in layouts.items():
        buffer = io.BytesIO()
        is_big, order = options.pop("bigtiff", False), options.pop("byteorder", "<")
        with tifffile.TiffWriter(buffer, bigtiff=is_big, byteorder=order) as tiff:
            tiff.write(ramp, photometric="rgb", **options)
            tiff.write(ramp[::4, ::4], photometric="rgb", subfiletype=1)
        files[f"{name}.tif"] = buffer.getvalue()
    for name, array in (("k.npy", np.eye(5)), ("kf.npy", np.eye(5, dtype=np.float32))):
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[name] = buffer.getvalue()
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer)
        files["a.heic"] = buffer.getvalue()
    if importlib.util.find_spec("astropy"):
        from astropy.io import fits

        buffer = io.BytesIO()
        fits.PrimaryHDU(deep[..., 0]).writeto(buffer)
        files["a.fits"] = buffer.getvalue()
    if importlib.util.find_spec("rawpy"):
        files["a.dng"] = raw_file()
    return files


def raw_file() -> bytes:
    """A DNG file of a gray scene behind a Bayer mosaic."""
    matrix = [part for value in np.eye(3).ravel() for part in (int(value), 1)]
    tags: list[Any] = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, bytes([0, 1, 1, 2]), True)]
    tags += [(50706, "B", 4, bytes([1, 4, 0, 0]), True), (50708, "s", 0, "Test", True)]
    tags += [(50714, "H", 1, 0, True), (50717, "H", 1, 65535, True), (50721, "2i", 9, matrix, True)]
    tags += [(50728, "2I", 3, (1, 1) * 3, True), (50778, "H", 1, 21, True)]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.full((32, 48), 16384, np.uint16), photometric="cfa", metadata=None, extratags=tags)
    return buffer.getvalue()


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with one change or a few: bits, bytes, fields of 2 and 4 bytes, and blocks, most of them near its head."""
    result = bytearray(data)
    for _ in range(int(rng.geometric(0.4))):
        limit = len(result) if rng.random() < 0.4 else min(len(result), 400)
        at, kind = int(rng.integers(0, max(1, limit))), int(rng.integers(0, 6))
        if kind == 0:
            result[at : at + 1] = bytes([(result[at] if at < len(result) else 0) ^ (1 << int(rng.integers(8)))])
        elif kind == 1:
            result[at : at + 1] = rng.bytes(1)
        elif kind in (2, 3):
            values = (0, 1, 2, 0xFF, 0x7FFF, 0xFFFF) if kind == 2 else (0, 1, 8, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
            size = 2 * (kind - 1)
            result[at : at + size] = int(rng.choice(values)).to_bytes(size, "little" if rng.random() < 0.5 else "big")
        elif kind == 4:
            length, source = int(rng.integers(1, 40)), int(rng.integers(0, max(1, len(result))))
            result[at : at + (length if rng.random() < 0.7 else 0)] = result[source : source + length]
        elif rng.random() < 0.3:
            del result[max(at, 1) :]
        else:
            del result[at : at + int(rng.integers(1, 20))]
    return bytes(result)


def example(seed: int, number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """The name and the bytes of a mutated file."""
    rng = np.random.default_rng((seed, number))
    name = sorted(files)[int(rng.integers(len(files)))]
    return name, mutated(files[name], rng)


def outcome(path: Path) -> str:
    """What reading a file led to."""
    try:
        (read_kernel if path.suffix == ".npy" else read_image)(path)
    except ValueError as why:
        return "refused" if str(path) in str(why) else f"other error: {type(why).__name__} without the name: {why}"
    except Exception as why:  # noqa: BLE001 - what the bench looks for
        return f"other error: {type(why).__name__}: {why}"
    return "read"


def read_all(numbers: range, seed: int, folder: Path, pipe: int) -> None:
    """Read files and write the outcome of each to a pipe. For a child process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    files = valid_files()
    for number in numbers:
        name, data = example(seed, number, files)
        path = folder / name
        path.write_bytes(data)
        result = outcome(path).replace("\n", " ")[:300]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        os.write(pipe, f"{name}\t{peak}\t{result}\n".encode(errors="replace"))


def run(numbers: range, seed: int, limit: float, folder: Path) -> tuple[collections.Counter[str], list[str], int]:
    """(how often each outcome was, a line for each file that was neither read nor refused, largest peak in MiB)."""
    counts: collections.Counter[str] = collections.Counter()
    failures, peak, at = [], 0, numbers.start
    while at < numbers.stop:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            read_all(range(at, numbers.stop), seed, folder, writer)
            os._exit(0)
        os.close(writer)
        rest, started = b"", True
        while True:
            ready, _, _ = select.select([reader], [], [], limit + 20 * started)
            block = os.read(reader, 1 << 16) if ready else b""
            started = False
            if not block:
                break
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                name, memory, text = line.decode(errors="replace").split("\t")
                kind, peak = text.split(":")[0], max(peak, int(memory))
                counts[kind] += 1
                if kind == "other error":
                    failures.append(f"{at} {name}: {text}")
                at += 1
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if at < numbers.stop:
            kind = "crash" if ready else "endless"
            counts[kind] += 1
            failures.append(f"{at} {example(seed, at, valid_files())[0]}: {kind}, status {status}")
            at += 1
    return counts, failures, peak


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench fuzz", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=2000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seconds", type=float, default=20, help="limit for each file")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        numbers = range(options.first, options.first + options.files)
        counts, failures, peak = run(numbers, options.seed, options.seconds, Path(folder))
    print(*failures, sep="\n")
    print(", ".join(f"{name} {counts[name]}" for name in OUTCOMES), end="")
    print(f"; peak {peak} MiB; formats {len(valid_files())}; {time.perf_counter() - start:.0f} s")
    sys.exit(bool(failures))
