"""`gpudeblur demo`: three pictures, blurred by camera shakes and deblurred blind; one is too hard, and says so."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np

from ..images.comparison import side_by_side
from ..images.files import write_image, write_text
from ..images.pages import data_uri, style
from ..images.planes import luminance
from ..metrics import align, kernel_similarity, psnr, ssim
from ..nonblind.deconvolve import deconvolve
from ..synthesis import blur, trajectory_kernel
from .deblur import BlindResult, Callback, deblur

# An estimated kernel may sit a few pixels off the true one, and the picture with it: scores are at the best shift.
BORDER = 20
WINDOW_MARGIN = 4  # px by which the window of the estimate is larger than the true kernel
RIGHT_SIMILARITY = 0.8  # to the true kernel, from which on a kernel is called right
PAGE = Path(__file__).with_name("demo.html")


@dataclass(frozen=True)
class Scene:
    """A picture of scikit-image and how it is blurred: by a random trajectory, with noise, rounded to 8 bits."""

    name: str
    description: str
    kernel_size: int
    kernel_seed: int
    noise_sigma: float = 0.0
    region: tuple[slice, slice] = np.s_[:, :]

    def sharp(self) -> np.ndarray:
        """(H, W) or (H, W, 3) float32."""
        from skimage import data

        return getattr(data, self.name)()[self.region].astype(np.float32) / 255

    def kernel(self) -> np.ndarray:
        return trajectory_kernel(self.kernel_size, rng=self.kernel_seed).astype(np.float32)

    def blurred(self) -> np.ndarray:
        """uint8; the valid convolution."""
        planes = np.moveaxis(np.atleast_3d(self.sharp()), -1, 0)
        planes = blur(planes, self.kernel(), noise_sigma=self.noise_sigma, rng=self.kernel_seed)
        blurred = np.moveaxis(np.round(np.clip(planes, 0, 1) * 255).astype(np.uint8), 0, -1)
        return blurred[..., 0] if blurred.shape[-1] == 1 else blurred


SCENES = (
    Scene("astronaut", "A portrait in color, without noise.", 23, 7),
    Scene("page", "A page of small print, with 0.5 % noise.", 15, 3, 0.005),
    Scene(
        "brick",
        "A wall of bricks under a long blur, with 2 % noise: its texture repeats itself, and many kernels explain it.",
        31,
        3,
        0.02,
        np.s_[:256, :320],
    ),
)


@dataclass(frozen=True)
class Figures:
    """Of one scene: PSNR in dB and SSIM of the luminance against the true picture, similarity to the true kernel."""

    blurred_psnr: float
    psnr: float
    blurred_ssim: float
    ssim: float
    similarity: float
    confidence: float
    strength: float
    seconds: float


@dataclass(frozen=True)
class DemoReport:
    """What the demo measured, by the name of the scene, and wrote."""

    figures: dict[str, Figures]
    backend: str
    files: tuple[Path, ...]


def run_demo(out: Path, *, device: str | None = None, progress: Callback | None = None) -> DemoReport:
    """Deblur `SCENES` into folder `out`.

    Writes `index.html`, a page without external requests; for each scene a comparison (blurred | result | true, with
    the kernels), and the result by itself.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files, figures, sections, results = [out / "index.html"], {}, [], []
    for index, scene in enumerate(SCENES):
        axis = -1 if scene.sharp().ndim == 3 else None
        size, callback = scene.kernel_size + WINDOW_MARGIN, _part(progress, index)
        results.append(deblur(scene.blurred(), size, channel_axis=axis, device=device, callback=callback))
    for scene, result in zip(SCENES, results, strict=True):
        margin = scene.kernel_size // 2
        true, blurred, kernel = scene.sharp()[margin:-margin, margin:-margin], scene.blurred(), scene.kernel()
        figures[scene.name] = _figures(scene, result, blurred, true)
        pictures = {"blurred": blurred, "result": result.image, "true picture": np.round(true * 255).astype(np.uint8)}
        kernels = {"true kernel": kernel, "estimated kernel": result.kernel}
        files += [out / f"{scene.name}.png", out / f"{scene.name}_deblurred.png"]
        write_image(files[-2], side_by_side(pictures, kernels))
        write_image(files[-1], result.image)
        if result.info["strength"] < 1:
            axis = -1 if blurred.ndim == 3 else None
            pictures["all of the restoration"] = deconvolve(
                blurred, result.kernel, method="sparse", channel_axis=axis, device=device
            )
        sections.append(_section(scene, figures[scene.name], pictures, kernels))
    write_text(files[0], _page(sections), suffixes=(".html",))
    return DemoReport(figures, str(results[0].info["backend"]), tuple(files))


def _part(progress: Callback | None, index: int) -> Callback | None:
    """The demo's progress during the scene of that index."""
    if progress is None:
        return None
    name = SCENES[index].name
    return lambda stage, fraction: progress(f"{name}: {stage}", (index + fraction) / len(SCENES))


def _figures(scene: Scene, result: BlindResult, blurred: np.ndarray, true: np.ndarray) -> Figures:
    before, after = _scores(blurred, true), _scores(result.image, true)
    similarity = kernel_similarity(result.kernel, scene.kernel())
    signals = (float(result.info[name]) for name in ("confidence", "strength", "seconds"))
    return Figures(before[0], after[0], before[1], after[1], similarity, *signals)


def _scores(picture: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM of the luminance at the best shift."""
    planes = [np.moveaxis(np.atleast_3d(image).astype(np.float64), -1, 0) for image in (picture, true)]
    aligned = align(luminance(planes[0] / 255), luminance(planes[1]), border=BORDER)
    return psnr(aligned.image, aligned.reference), ssim(aligned.image, aligned.reference)


def _page(sections: list[str]) -> str:
    return Template(PAGE.read_text("utf-8")).substitute(style=style(), sections="\n".join(sections))


def _image(pixels: np.ndarray, text: str, attributes: str = "") -> str:
    """An <img> that holds uint8 pixels as PNG."""
    return f'<img src="{data_uri(pixels)}" alt="{text}"{attributes}>'


def _section(scene: Scene, figures: Figures, pictures: dict[str, np.ndarray], kernels: dict[str, np.ndarray]) -> str:
    """A scene on the page: a slider between the first picture and one of the others, the figures, and the kernels."""
    blurred, *views = pictures
    verdict = "right" if figures.similarity >= RIGHT_SIMILARITY else "wrong"
    withheld = (
        f" The result is {math.floor(100 * figures.strength)} % of the restoration, the rest is the blurred picture."
        if figures.strength < 1
        else ""
    )
    hidden = {view: "" if view == views[0] else " hidden" for view in views}
    checked = {view: " checked" if view == views[0] else "" for view in views}
    images = [_image(pictures[blurred], f"{scene.name}, {blurred}")]
    images += [
        _image(pictures[view], f"{scene.name}, {view}", f' class="after" data-view="{view}"{hidden[view]}')
        for view in views
    ]
    choices = [
        f'<label><input type="radio" name="{scene.name}" value="{view}"{checked[view]}> {view}</label>'
        for view in views
    ]
    rows = {
        "PSNR": f"{figures.blurred_psnr:.2f} &rarr; {figures.psnr:.2f} dB",
        "SSIM": f"{figures.blurred_ssim:.3f} &rarr; {figures.ssim:.3f}",
        "kernel similarity": f"{figures.similarity:.2f}",
        "confidence": f"{figures.confidence:.2f}",
        "strength": f"{figures.strength:.2f}",
        "time": f"{figures.seconds:.1f} s",
    }
    levels = {name: np.round(255 * kernel / kernel.max()).astype(np.uint8) for name, kernel in kernels.items()}
    panels = [
        f"<figure>{_image(image, name)}<figcaption>{name}</figcaption></figure>" for name, image in levels.items()
    ]
    return f"""<section class="{verdict}">
<h2>{scene.name.capitalize()}: <span class="verdict">the kernel is {verdict}</span></h2>
<p>{html.escape(scene.description)}{withheld}</p>
<div class="row">
<div>
<div class="compare">
{chr(10).join(images)}
<span class="tag left">{blurred}</span><span class="tag right">{views[0]}</span>
<input type="range" value="50" aria-label="{scene.name}: how much of the blurred picture is shown, in percent">
</div>
<fieldset><legend>on the right</legend>
{chr(10).join(choices)}
</fieldset>
</div>
<div>
<dl>{"".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items())}</dl>
<div class="kernels">
{chr(10).join(panels)}
</div>
</div>
</div>
</section>"""
