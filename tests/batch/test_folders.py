"""`gpudeblur batch`: which files are read, where the results go, what is said of failures, and a killed run."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_cli import COLOR, KERNEL, fails, names, run, table, wide

from gpudeblur import TwoStepOptions, deconvolve
from gpudeblur.batch import cpu
from gpudeblur.batch.journal import JOURNAL_NAME
from gpudeblur.images.comparison import side_by_side
from gpudeblur.images.files import read_image, read_kernel, write_image, write_kernel
from gpudeblur.images.formats import FORMATS

__all__ = ["wide"]  # the fixture, which every test here uses
ROOT = Path(__file__).parents[2]
JOIN_TIMEOUT = 60


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes the calls of `deblur`, which gives the picture back in negative."""
    calls: list[Any] = []

    def deblur(image: np.ndarray, kernel_size: Any, **options: Any) -> Any:
        calls.append((image, kernel_size, options))
        if (image[..., 0] == 77).all():
            raise ValueError("image must not be 77")
        info = {"backend": "numpy", "confidence": 0.9 if image[0, 0, 0] else 0.1, "seconds": 1.5}
        if options["options"].strength is None:
            info["strength"] = 1.0 if image[0, 0, 0] else 0.046
        return SimpleNamespace(image=np.iinfo(image.dtype).max - image, kernel=KERNEL, info=info)

    monkeypatch.setattr(cpu, "deblur", deblur)
    return calls


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three, with a folder in it, and with what is no picture."""
    folder = tmp_path / "in"
    (folder / "more" / ".hidden").mkdir(parents=True)
    write_image(folder / "a.png", COLOR)
    write_image(folder / "b.tif", COLOR[..., 0])
    write_image(folder / "c.png", COLOR.astype(np.uint16) * 257, COLOR[..., 1].astype(np.uint16))
    write_image(folder / "more" / "d.jpg", COLOR)
    write_image(folder / "more" / ".hidden" / "e.png", COLOR)
    write_image(folder / ".f.png", COLOR)
    (folder / "notes.txt").write_text("hello")
    return folder


def below(folder: Path) -> list[str]:
    """The files in a folder, without the journal."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != JOURNAL_NAME)
    return sorted(str(file.relative_to(folder)) for file in files)


@pytest.mark.parametrize(
    "size", [("-k", "5"), *(pytest.param(size, marks=pytest.mark.slow) for size in (("-k", "auto"), ()))]
)
def test_a_folder_of_pictures(calls: list[Any], photos: Path, tmp_path: Path, size: tuple[str, ...]) -> None:
    before = {name: (photos / name).read_bytes() for name in below(photos)}
    result = run("batch", photos, "-o", tmp_path / "out", *size)
    assert result.exit_code == 0, result.output
    assert [side or options.get("kernel_size") for _, side, options in calls] == [(5, 5) if "5" in size else None] * 3
    assert below(tmp_path / "out") == ["a.png", "b.tif", "c.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png").pixels, 255 - COLOR)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "b.tif").pixels, 255 - COLOR[..., 0])
    deep = read_image(tmp_path / "out" / "c.png")
    np.testing.assert_array_equal(deep.pixels, 65535 - COLOR.astype(np.uint16) * 257)
    np.testing.assert_array_equal(deep.alpha, COLOR[..., 1])
    assert table(result)["written"].startswith("3 of 3 in ")
    assert table(result)["left out"] == "3: 1 .txt, 1 folder (--recursive takes it), 1 hidden"
    assert set(table(result)) == {"written", "left out"}
    assert [line.split(",")[0] for line in result.stderr.splitlines()] == [
        f"{number} of 3: {tmp_path / 'out' / name} written"
        for number, name in enumerate(("a.png", "b.tif", "c.png"), 1)
    ]
    assert {name: (photos / name).read_bytes() for name in below(photos)} == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpudeblur")]


def test_every_option_arrives(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    result = run(
        *("batch", photos / "a.png", photos / "b.tif", "-o", tmp_path / "out", "-k", "5x7", "--device", "cpu"),
        *("--final", "hyper-laplacian", "--gamma", "2.2", "--gradient-weight", "0.01", "--workers", "1"),
        *("--batch-size", "3", "--format", "tif"),
    )
    assert result.exit_code == 0, result.output
    assert below(tmp_path / "out") == ["a.tif", "b.tif"]
    for image, size, options in calls:
        assert image.ndim == 3
        assert options.pop("callback")("kernel", 0.5) is not None
        assert (size or options.pop("kernel_size")) == (5, 7)
        assert options.pop("options").gradient_weight == 0.01
        assert options == {
            "channel_axis": -1, "device": "cpu", "method": "two-step", "final": "hyper-laplacian", "gamma": 2.2,
            "white": 255, "defects": "auto", "region": "auto", "shared_kernel": False, "initial": None,
        }  # fmt: skip


def test_folders_in_folders_keep_their_place(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    out = photos / "out"  # in the folder that is read: never taken for input
    for _ in range(2):
        result = run("batch", photos, "-o", out, "-k", "5", "-r", "--kernels-out", tmp_path / "k", "--overwrite")
        assert result.exit_code == 0, result.output
        assert below(out) == ["a.png", "b.tif", "c.png", "more/d.jpg"]
        assert below(tmp_path / "k") == ["a.npy", "b.npy", "c.npy", "more/d.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "k" / "more" / "d.npy"), KERNEL)
    assert len(calls) == 8


def test_one_bad_file_is_a_line_at_the_end(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    (photos / "aa.png").write_bytes(b"hello")
    write_image(photos / "b7.png", np.full((20, 20), 77, np.uint8))
    write_image(photos / "dark.png", np.zeros((20, 20), np.uint8))
    result = run("batch", photos, "-o", tmp_path / "out", "-k", "5", "--format", "jpg", "--report", tmp_path / "r.csv")
    assert result.exit_code == 1
    assert below(tmp_path / "out") == ["a.jpg", "b.jpg", "dark.jpg"]
    rows = table(result)
    assert rows["written"].startswith("3 of 6 in ")
    assert rows["low confidence"] == f"1, their kernels are guesses; {tmp_path / 'r.csv'} says which"
    assert rows["strength below 1"].startswith("1, down to 0.04: blended with the blurred picture; ")
    names = ", ".join(format.name for format in FORMATS)
    assert rows["failed"].splitlines() == [
        f"{photos / 'aa.png'} must be an image ({names}), it begins with b'hello'; convert it first",
        f"{photos / 'b7.png'}: image must not be 77",
        f"{photos / 'c.png'}: JPEG cannot hold the picture's alpha channel, got {tmp_path / 'out' / 'c.jpg'}; "
        "write .png or .tif",
    ]
    with (tmp_path / "r.csv").open() as file:
        report = {Path(row["source"]).name: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in report.items()} == {
        **dict.fromkeys(("a.png", "b.tif", "dark.png"), "written"),
        **dict.fromkeys(("aa.png", "b7.png", "c.png"), "failed"),
        **dict.fromkeys((".f.png", "more", "notes.txt"), "left out"),
    }
    assert report["b7.png"]["error"] == "image must not be 77"
    assert (report["a.png"]["confidence"], report["a.png"]["seconds"], report["a.png"]["error"]) == ("0.9", "1.5", "")
    assert [report[name]["strength"] for name in ("a.png", "dark.png", "aa.png")] == ["1.0", "0.046", ""]
    whole = run("batch", photos / "dark.png", "-o", tmp_path / "whole", "-k", "5", "--strength", "1")
    assert calls[-1][2]["options"] == TwoStepOptions(strength=1.0)
    assert "strength below 1" not in table(whole)
    kernel = ("--region", "1,2,30,20", "--preset", "fast", "--strength", "0.5")
    assert run("batch", photos / "dark.png", "-o", tmp_path / "half", "-k", "5", *kernel).exit_code == 0
    assert calls[-1][2]["region"] == np.s_[2:22, 1:31]
    assert calls[-1][2]["options"] == TwoStepOptions(starts=("wide",), strength=0.5)


def test_a_second_run_goes_on_where_the_first_ended(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    arguments = ("batch", photos, "-o", tmp_path / "out", "-k", "5", "--kernels-out", tmp_path / "k")
    assert run(*arguments).exit_code == 0
    (tmp_path / "out" / "a.png").unlink()
    (tmp_path / "k" / "b.npy").unlink()
    modified = (tmp_path / "out" / "c.png").stat().st_mtime_ns
    result = run(*arguments, "--report", tmp_path / "r.json")
    assert result.exit_code == 0
    assert table(result)["skipped"] == "1, there already; --overwrite does them again"
    assert len(calls) == 3 + 2
    assert (tmp_path / "out" / "c.png").stat().st_mtime_ns == modified
    report = json.loads((tmp_path / "r.json").read_text())
    rows = {Path(row["source"]).name: row for row in report if row["status"] != "left out"}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.png": "written", "b.tif": "written", "c.png": "skipped",
    }  # fmt: skip
    assert [rows["c.png"][name] for name in ("confidence", "seconds")] == [0.9, 1.5]  # of the first run
    assert run(*arguments, "--overwrite").exit_code == 0
    assert len(calls) == 8


def test_two_results_of_one_name_are_refused_before_the_work(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    write_image(photos / "a.jpg", COLOR)
    out = ("-o", tmp_path / "out", "-k", "5")
    for more in (("--format", "png"), ("--kernels-out", tmp_path / "k")):
        fails(run("batch", photos, *out, *more), f"for both {photos / 'a.jpg'} and {photos / 'a.png'}; rename one")
    write_image(tmp_path / "a.png", COLOR)
    fails(run("batch", photos / "a.png", tmp_path / "a.png", *out), "output files must differ in more than case, got ")
    fails(run("batch", photos, photos / "a.png", *out), f"{photos / 'a.png'} must be named once, got it twice")
    assert calls == []
    assert not (tmp_path / "out").exists()
    assert run("batch", photos, *out).exit_code == 0
    assert below(tmp_path / "out") == ["a.jpg", "a.png", "b.tif", "c.png"]


def test_the_photographs_are_never_replaced(calls: list[Any], photos: Path) -> None:
    fails(run("batch", photos, "-o", photos, "-k", "5", "--overwrite"), "a.png is an input; choose another folder")
    fails(run("batch", photos / "a.png", "-o", photos, "-k", "5"), "a.png is an input; choose another folder")
    other = photos / "A.TIF"  # whose output "A.png" is the input "a.png" on a disk that does not tell case
    write_image(other, COLOR)
    command = ("batch", photos / "a.png", other, "-o", photos, "-k", "5", "--format", "png")
    fails(run(*command), "is an input; choose another folder")
    assert calls == []


def test_what_is_wrong_for_all_is_one_line(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    (photos / "empty" / "er").mkdir(parents=True)
    for source, arguments, message in (
        (photos, ("-k", "24"), "--kernel-size must be odd, got 24; use 23 or 25"),
        (photos, ("-k", "big"), "--kernel-size must be an odd integer, two as HEIGHTxWIDTH, or auto"),
        (photos, ("--workers", "0"), "--workers must be at least 1, got 0"),
        (photos, ("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (photos, ("--gamma", "0"), "--gamma must be a positive number, got 0.0"),
        (photos, ("--report", tmp_path / "r.txt"), "must end in .csv, .json, got '.txt'"),
        (tmp_path / "no", (), "no does not exist; name files or folders"),
        (photos / "notes.txt", (), "notes.txt must end in .png, .jpg, .jpeg, .tif, .tiff"),
        (photos / "empty", (), "in what was named; folders in folders need --recursive"),
        (photos / "empty", ("-r",), "in what was named; name other folders"),
    ):
        fails(run("batch", source, "-o", tmp_path / "out", *arguments), message)
    assert calls == []
    assert names(tmp_path) == ["in"]


def test_a_folder_that_cannot_be_made_is_each_files_failure(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "more").write_text("a file")
    result = run("batch", photos, "-o", tmp_path / "out", "-k", "5", "-r")
    assert result.exit_code == 1
    (line,) = table(result)["failed"].splitlines()
    assert line.startswith(f"{photos / 'more' / 'd.jpg'}: ")
    assert (tmp_path / "out" / "more").read_text() == "a file"


# ---- a run that ends early: the real command, which prints the name of each file it has written

SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from gpudeblur import TwoStepOptions, deconvolve
from gpudeblur.cli import commands
from gpudeblur.batch import folders
commands.two_step_options = lambda *_, **__: TwoStepOptions(starts=("wide",))  # to be quick
write = folders.write_image
def write_image(path, *rest, **more):
    write(path, *rest, **more)
    print(path.name, flush=True)
folders.write_image = write_image
commands.main()
"""

ONE_BY_ONE = ("-k", "5", "--final", "hyper-laplacian", "--workers", "1", "--batch-size", "1")


def command(folder: Path, *arguments: str) -> subprocess.Popen:
    # Control-C between open() and `with` leaves the file to Python's own clean-up, which is no error of ours.
    line = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", SCRIPT, "batch", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def many(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24), dtype=np.uint8)
        write_image(tmp_path / "in" / f"{i:02}.png", pixels)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_leaves_whole_files_and_can_go_on(many: Path) -> None:
    def whole(folder: str) -> list[str]:
        return [name for name in names(many / folder) if not name.startswith(".")]

    arguments = ("in", "-o", "out", *ONE_BY_ONE, "--kernels-out", "k")
    with command(many, *arguments) as process:
        assert process.stdout is not None
        first = [process.stdout.readline().strip() for _ in range(2)]
        process.kill()
        process.wait(JOIN_TIMEOUT)
    assert first == ["00.png", "01.png"]
    there = whole("out")
    assert set(first) <= set(there)
    assert len(there) < 8
    for name in there:
        assert read_image(many / "out" / name).pixels.shape == (20, 24)
    for name in whole("k"):
        assert np.load(many / "k" / name).shape == (5, 5)
    with command(many, *arguments) as process:
        said, errors = process.communicate(timeout=JOIN_TIMEOUT)
    assert process.returncode == 0, errors
    assert sum(line.endswith(".png") for line in said.splitlines()) <= 8 - len(first) + 1
    assert whole("out") == [f"{i:02}.png" for i in range(8)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_control_c_ends_a_run_with_its_report(many: Path) -> None:
    with command(many, "in", "-o", "out", *ONE_BY_ONE, "--report", "r.json") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "00.png\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=JOIN_TIMEOUT)
    assert "Traceback" not in errors
    assert process.returncode == 130
    assert "stopped: " in errors
    assert "of 8 written; the same command goes on" in errors
    assert not [name for name in names(many / "out") if name.endswith(".tmp")]
    if (many / "r.json").exists():  # the first picture may not have been counted yet
        assert {row["status"] for row in json.loads((many / "r.json").read_text())} == {"written"}


# ---- masks


def test_a_folder_of_masks(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    """Found by the names of the pictures, and in the same places; it may be within the folder of the pictures."""
    mask, masks = np.ones(COLOR.shape[:2], bool), photos / "masks"
    mask[3:5, 7:9] = False
    (masks / "more").mkdir(parents=True)
    for name in ("a.tif", "b.png", "other.png"):
        write_image(masks / name, mask.astype(np.uint8) * 255)
    write_image(masks / "more" / "d.png", ~mask * np.uint8(1))
    result = run("batch", photos, "-o", tmp_path / "out", "-k", "5", "-r", "--mask", masks)
    assert result.exit_code == 0, result.output
    assert below(tmp_path / "out") == ["a.png", "b.tif", "c.png", "more/d.jpg"]
    given = {image.dtype.str + str(image.shape): options.get("mask") for image, _, options in calls}
    assert len(calls) == 4
    assert sum(options.get("mask") is None for _, _, options in calls) == 1
    np.testing.assert_array_equal(given["|u1(40, 50, 1)"], mask)
    assert given["<u2(40, 50, 3)"] is None


def test_a_bad_mask_fails_its_picture(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    write_image(masks / "a.png", np.zeros((40, 50), np.uint8))
    write_image(masks / "b.png", np.ones((40, 49), np.uint8))
    result = run("batch", photos, "-o", tmp_path / "out", "-k", "5", "--mask", masks)
    assert result.exit_code == 1, result.output
    failed = table(result)["failed"].splitlines()
    assert "--mask must not be black all over" in failed[0]
    assert "--mask must have the size of the picture, 40 x 50, got 40 x 49; black is not valid" in failed[1]
    assert below(tmp_path / "out") == ["c.png"]


def test_folders_of_masks_that_are_refused(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    command = ("batch", photos, "-o", tmp_path / "out", "-k", "5", "--mask")
    fails(run(*command, masks), "--mask must have a file for some picture, got none in")
    fails(run(*command, photos), "--mask must be a folder of masks, got that of the picture")
    for name in ("a.png", "a.tif"):
        write_image(masks / name, np.ones((40, 50), np.uint8))
    fails(run(*command, masks), "--mask must have one file for")
    assert not calls


# ---- a kernel that is known, and comparisons


def test_a_folder_by_one_kernel(photos: Path, tmp_path: Path) -> None:
    """As `deconvolve` alone, bit for bit, also with masks; another kernel is another run."""
    kernel, out, report = tmp_path / "k.npy", tmp_path / "out", tmp_path / "r.json"
    write_kernel(kernel, KERNEL, gamma=2.2)
    mask = np.ones(COLOR.shape[:2], bool)
    mask[3:5, 7:9] = False
    (tmp_path / "masks").mkdir()
    write_image(tmp_path / "masks" / "a.png", mask.astype(np.uint8))
    command: tuple[Any, ...] = (
        "batch",
        photos,
        "-o",
        out,
        "--kernel",
        kernel,
        "--final",
        "tv",
        "--device",
        "cpu",
        "--report",
        report,
    )
    command = (*command, "--mask", tmp_path / "masks", "--workers", "2")
    result = run(*command)
    assert result.exit_code == 0, result.output
    for name, pixels, valid in (("a.png", COLOR, mask), ("b.tif", COLOR[..., :1], None)):
        settings: dict[str, Any] = {"method": "tv", "gamma": 2.2, "mask": valid, "channel_axis": -1}
        expected = deconvolve(pixels, read_kernel(kernel), **settings).squeeze()
        np.testing.assert_array_equal(read_image(out / name).pixels, expected)
    row = json.loads(report.read_text())[0]
    assert (row["status"], row["gamma"], row["confidence"]) == ("written", 2.2, None)
    assert row["options"].startswith(f"--mask {tmp_path / 'masks'} --kernel {kernel} --final tv")
    assert table(run(*command))["skipped"].startswith("3, there already")
    write_kernel(kernel, KERNEL.T, gamma=2.2)
    assert table(run(*command))["other options"].startswith("3, made with other options")
    fails(
        run(*command, "-k", "5"), "--kernel-size must be left out with --kernel, which leaves nothing to be estimated"
    )
    fails(run(*command, "--kernels-out", tmp_path), "--kernels-out must be left out with --kernel")
    fails(run("batch", photos, "-o", out, "--kernel", tmp_path / "no.npy"), "--kernel must be a file, there is none at")


def test_comparisons(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    """Beside the results; one that is missing is made again, and the result stays."""
    out = tmp_path / "out"
    command = ("batch", photos / "a.png", photos / "b.tif", "-o", out, "-k", "5", "--compare", out)
    assert run(*command).exit_code == 0
    assert below(out) == ["a.png", "a_compare.png", "b.tif", "b_compare.png"]
    sheet = side_by_side({"blurred": COLOR, "result": 255 - COLOR}, {"kernel": KERNEL})
    np.testing.assert_array_equal(read_image(out / "a_compare.png").pixels, sheet)
    (out / "a_compare.png").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    assert table(run(*command))["written"].startswith("1 of 2")
    np.testing.assert_array_equal(read_image(out / "a_compare.png").pixels, sheet)
    assert (out / "a.png").stat().st_mtime_ns == before
    assert len(calls) == 3


def test_encodings_are_checked_before_the_work(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    command = ("batch", photos, "-o", tmp_path / "out", "-k", "5")
    for options, message in (
        (("--bits", "12"), "--bits must be 8 or 16, got 12"),
        (("--quality", "0"), "--quality must be an integer from 1 to 100, got 0"),
        (("--quality", "80", "--format", "png"), "--quality must be left out for .png files, which lose nothing"),
    ):
        fails(run(*command, *options), message)
    for option in ("--out", "--kernels-out", "--compare"):
        fails(run(*command, option, photos / "a.png"), f"{option} must be a folder, {photos / 'a.png'} is a file; name")
    assert not calls
    sizes = []
    for quality in ("95", "30"):
        assert run(*command, "--format", "jpg", "--quality", quality, "--overwrite").exit_code == 1  # c.png has alpha
        sizes.append((tmp_path / "out" / "a.jpg").stat().st_size)
    assert sizes[1] < sizes[0] / 1.5
