"""Messages of the library in the words of the command line: options and files where they name Python's arguments."""

from __future__ import annotations

import re
from typing import Any

# Arguments whose options are not called as they are.
OPTIONS = {
    "white": "--white-level",
    "noise_sigma": "--noise",
    "kernel": "--kernel",
}
# Arguments whose options are called as they are, with dashes.
ARGUMENTS = (
    *("batch_size", "bits", "blur", "boundary", "defects", "device", "final", "floor", "focal", "gamma"),
    *("gradient_weight", "iterations", "kernel_size", "mask", "method", "network", "page", "prior", "quality"),
    *("region", "smooth_weight", "strength", "tile", "weight", "weights", "workers"),
)
OPTIONS |= {name: f"--{name.replace('_', '-')}" for name in ARGUMENTS}
_NAMES = "|".join(sorted(OPTIONS, key=len, reverse=True))

# In this order. What a message advises in Python becomes what can be done in the shell.
PHRASES: tuple[tuple[str, str], ...] = (
    (r"in Python name it: read_image\(path, page=0\)", "name it by --page, from 0"),
    (r"kernel_size=None found", "auto found"),
    (r"kernel_size=None", "--kernel-size auto"),
    (r"defects=None", "--defects none"),
    (r"use device=(?:\"cpu\"|'cpu'), or", "use --device cpu, or"),
    (r"select another GPU by cupy\.cuda\.Device", "another GPU by CUDA_VISIBLE_DEVICES"),
    (r"raise PIL\.Image\.MAX_IMAGE_PIXELS if you trust it", "save it in parts"),
    (r"; use 'auto', 'all', or for instance numpy\.s_\[[^]]*\]", "; give auto, all, or X,Y,W,H in pixels"),
    (r"; give a kernel_size, or channel_axis=-1 if it has channels \(H, W, C\)", "; give --kernel-size"),
    (r"; make one with that shape, or cut one with field\.crop", "; it belongs to another picture"),
    (r"with numpy\.maximum\(kernels?, 0\)", "in its file"),
    (r": numpy\.fft\.fftshift\(\w+\) puts it there", "; shift it by half of its sides"),
    (r"; give offset=\S+ or more, which is added before and subtracted after", "; use another --method"),
    (r"\bor give ~mask if True marks bad ones", "or invert the file: black is not valid"),
    (r"; True is valid, try ~mask", "; black is not valid, others are"),
    (r"pass its channels as a stack of gray pictures|pass them one by one", "save them as pictures by themselves"),
    (r"pass the first three alone", "remove it"),
    (r"; use KernelField\(\.\.\., floor=\)", "; leave it out"),
    (r"a KernelField of the picture's shape", "made for the picture's size"),
    (r"\ba KernelField\b", "a field of kernels (.npz)"),
    (r"KernelField\.save", "gpudeblur deblur --blur rotation --kernel-out"),
    (r"; change its sign", "; invert it"),
    (r"use estimate_kernel", "leave out --from-streak"),
    (r"mask must be a bool array, 'nan' or None", "--mask must be a file or nan"),
    (r"'auto' or None", "auto"),
    (r"\bNone, ('cpu', 'cuda')", r"\1"),
    (r"\b8, 16 or None\b", "8 or 16"),
    (r" or None\b", ""),
    (r"\bmust be None\b", "must be left out"),
    (r" with kernel\[None, :\]", ": 1 x N or N x 1"),
    (r"\bwith (a )?(tile|mask)\b", r"with --\2"),
)
_REGION = re.compile(r"\(slice\((\d+), (\d+), None\), slice\((\d+), (\d+), None\)\)")


def in_options(message: Any) -> str:
    """The text of an error or a warning, for the shell; some bring their own as `at_command_line`."""
    if hasattr(message, "at_command_line"):
        return str(message.at_command_line)
    text = str(message)
    for pattern, words in PHRASES:
        text = re.sub(pattern, words, text)
    text = _REGION.sub(_region, text)
    text = re.sub(rf"(?<![\w.-])({_NAMES})=(\"|'|(?=[\w.]))([\w.-]*)\2", lambda m: f"{OPTIONS[m[1]]} {m[3]}", text)
    text = re.sub(rf"^({_NAMES})(?= (?:must|has|have|is|are|of|with|needs)\b)", lambda m: OPTIONS[m[1]], text)
    # Names with an underscore are no English words, wherever they stand.
    return re.sub(rf"(?<![\w.-])({_NAMES})(?![\w=])", lambda m: OPTIONS[m[1]] if "_" in m[1] else m[1], text)


def _region(match: re.Match[str]) -> str:
    top, bottom, left, right = map(int, match.groups())
    return f"{left},{top},{right - left},{bottom - top}"
