"""Makes the folders of clear pictures that the classifier is trained and judged on.

    python -m bench.training.classifier_data --data DATA --out DIR

DIR/train and DIR/val get natural, faces (links to DATA's pictures: BSDS500; faces 000001 to 007500 to train, 007501 and
later to judge), text (drawn in every font that comes with matplotlib, no font in both) and night (darkened photographs
of the same split with lamps far over what a sensor holds, so that blur makes them streaks; float TIFF). Nothing here is
blurred: that happens while training.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import tifffile
from PIL import Image, ImageDraw, ImageFont

from bench.cases import PAGES, WORDS, gray_picture, name_seed, photographs
from bench.evaluate import arguments

PAGES_OF_A_FONT = 8
SHAPE = (360, 440)
SYMBOLS = ("Siz", "Display", "NonUni", "cmsy", "cmex", "cmmi", "LastResort")  # in names of fonts without letters
LAST_TRAINING_FACE = "007500"


def fonts() -> Iterator[tuple[Path, bool]]:
    """(file, whether it is to judge by) of the fonts with letters: every sixth, and those of bench pages, to judge."""
    seen = {name for name, _, _ in PAGES}
    files = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))
    files = [file for file in files if not any(word in file.stem for word in SYMBOLS)]
    for number, file in enumerate(files):
        yield file, file.stem in seen or number % 6 == 0


def page(file: Path, number: int) -> np.ndarray:
    """Words in random size, gray levels and line height, 8 bit."""
    rng = np.random.default_rng(name_seed(f"{file.stem}{number}"))
    size = int(rng.integers(12, 46))
    face = ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
    light, dark = int(rng.integers(170, 256)), int(rng.integers(0, 90))
    paper, ink = (light, dark) if rng.random() < 0.7 else (dark, light)
    height, width = SHAPE
    sheet = Image.new("L", (width, height), paper)
    draw, words = ImageDraw.Draw(sheet), WORDS.split()
    top = float(rng.uniform(0, size))
    while top < height:
        line = " ".join(rng.choice(words, 60).tolist())
        draw.text((float(rng.uniform(0, 2 * size)), top), line, ink, face)
        top += size * float(rng.uniform(1.1, 1.8))
    return np.asarray(sheet)


def night(picture: np.ndarray, seed: int) -> np.ndarray:
    """A dark scene in linear light: the photograph darkened, with small lamps of 2 to 60 times full scale."""
    rng = np.random.default_rng(seed)
    scene = float(rng.uniform(0.15, 0.6)) * picture ** float(rng.uniform(1.2, 2.2))
    rows, columns = np.mgrid[: scene.shape[0], : scene.shape[1]]
    for _ in range(int(rng.integers(8, 30))):
        y, x = rng.uniform(0, scene.shape[0]), rng.uniform(0, scene.shape[1])
        radius = float(rng.uniform(0.7, 3.0))
        power = float(np.exp(rng.uniform(np.log(2), np.log(60))))
        scene = np.maximum(scene, power * np.clip(radius + 0.5 - np.hypot(rows - y, columns - x), 0, 1))
    return scene.astype(np.float32)


def main() -> None:
    parser = arguments(__doc__, "data")
    parser.add_argument("--out", required=True, type=Path, help="new folder to make them in")
    args = parser.parse_args()
    for split in ("train", "val"):
        for kind in ("natural", "faces", "text", "night"):
            (args.out / split / kind).mkdir(parents=True)
        for path in photographs(args.data, split):
            (args.out / split / "natural" / path.name).symlink_to(path.resolve())
            scene = night(gray_picture(path), name_seed(f"night{path.stem}"))
            tifffile.imwrite(args.out / split / "night" / f"{path.stem}.tif", scene, metadata=None)
    for path in (args.data / "faces").glob("*.jpg"):
        split = "train" if path.stem <= LAST_TRAINING_FACE else "val"
        (args.out / split / "faces" / path.name).symlink_to(path.resolve())
    for file, judge in fonts():
        for number in range(PAGES_OF_A_FONT):
            folder = args.out / ("val" if judge else "train") / "text"
            Image.fromarray(page(file, number)).save(folder / f"{file.stem}_{number}.png")


if __name__ == "__main__":
    main()
