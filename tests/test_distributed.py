"""`gpudeblur.distributed`: the files of a folder, done once each by workers, some of which die."""

import importlib
import json
import os
import signal
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import run, table, wide

import gpudeblur as gd
from gpudeblur.batch.folders import Outcome, decide, pictures_of, plan
from gpudeblur.batch.journal import JOURNAL_NAME, Journal
from gpudeblur.images.files import read_image, write_image
from gpudeblur.images.header import read_header

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
module = pytest.importorskip("gpudeblur.distributed")

__all__ = ["wide"]  # a fixture
OPTIONS = gd.TwoStepOptions(iterations=1, kernel_iterations=2, refine=False, starts=("wide",))
SETTINGS: dict[str, Any] = {"final": "hyper-laplacian", "options": OPTIONS}
PRELOAD = """
import os, signal
from gpudeblur.batch import folders

def read_or_die(path, read_image=folders.read_image):
    if "poison" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_image(path)

if folders.read_image.__name__ == "read_image":  # dask runs this twice
    folders.read_image = read_or_die
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A cluster in this process."""
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, distributed.Client(cluster) as client:
        yield client


def make_files(folder: Path, count: int, shape: tuple[int, ...] = (20, 24)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)
        write_image(folder / f"{i:03}.png", pixels)
    return folder


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / JOURNAL_NAME).read_text().splitlines()]


def check_results(folder: Path, out: Path) -> None:
    """All results are there, those of `deblur`, and each was written once."""
    written = Counter(line["output"] for line in lines(out) if line["status"] == "written")
    for source in folder.glob("[0-9]*.png"):
        alone = gd.deblur(read_image(source).pixels, 5, **SETTINGS)
        assert np.array_equal(read_image(out / source.name).pixels, alone.image)
        assert written[source.name] == 1
    assert not [*out.glob(".gpudeblur-*")]


def test_files_are_done_once_and_a_bad_one_is_named(client: Any, tmp_path: Path) -> None:
    folder, out = make_files(tmp_path / "in", 5), tmp_path / "out"
    (folder / "bad.png").write_bytes(b"nonsense")
    arguments = {"client": client, "kernels": tmp_path / "kernels", **SETTINGS}
    rows = {Path(row.source).name: row for row in module.deblur_files(folder, out, 5, **arguments)}
    assert Counter(row.status for row in rows.values()) == {"written": 5, "failed": 1}
    assert "must be an image" in rows["bad.png"].error
    assert rows["000.png"].confidence is not None
    assert np.load(tmp_path / "kernels" / "000.npy").shape == (5, 5)
    check_results(folder, out)
    again = [row.status for row in module.deblur_files(folder, out, 5, **arguments)]
    assert Counter(again) == {"skipped": 5, "failed": 1}
    (out / "003.png").unlink()
    (tmp_path / "kernels" / "003.npy").unlink()
    again = [row.status for row in module.deblur_files(folder, out, 5, **arguments)]
    assert Counter(again) == {"skipped": 4, "written": 1, "failed": 1}
    other = module.deblur_files(folder, out, 7, **arguments)
    assert Counter(row.status for row in other) == {"other options": 5, "failed": 1}


def test_masks_and_relative_paths(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path / "in", 2)
    mask = np.full((20, 24), 255, np.uint8)
    mask[4:8, 4:8] = 0
    (tmp_path / "masks").mkdir()
    write_image(tmp_path / "masks" / "001.png", mask)
    monkeypatch.chdir(tmp_path)
    rows = [*module.deblur_files("in", "out", 5, client=client, masks="masks", **SETTINGS)]
    assert {row.source for row in rows} == {"in/000.png", "in/001.png"}
    assert {row.status for row in rows} == {"written"}
    source = read_image(tmp_path / "in" / "001.png").pixels
    alone = gd.deblur(source, 5, mask=mask > 0, **SETTINGS)
    assert np.array_equal(read_image(tmp_path / "out" / "001.png").pixels, alone.image)


@pytest.mark.parametrize("kind", ["memory", "pattern", "zip", "archive in memory"])
def test_pictures_in_stores_are_those_on_disk(client: Any, tmp_path: Path, kind: str) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    folder, out = make_files(tmp_path / "in", 3), tmp_path / "out"
    (folder / "bad.png").write_bytes(b"nonsense")
    (folder / "notes.txt").write_text("notes")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder) + "/", "/photos/", recursive=True)
    memory.put(str(folder / "000.png"), "/photos/inner/")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    memory.put(str(tmp_path / "photos.zip"), "/photos.zip")
    url, first, left_out = {
        "memory": ("memory://photos", "memory://photos/000.png", {"folder (--recursive takes it)", ".txt"}),
        "pattern": ("memory://photos/*.png", "memory://photos/000.png", set()),
        "zip": (f"zip://::{tmp_path}/photos.zip", f"zip://000.png::{tmp_path}/photos.zip", {".txt"}),
        "archive in memory": ("zip://*.png::memory://photos.zip", "zip://000.png::memory://photos.zip", set()),
    }[kind]
    rows = {row.source: row for row in module.deblur_files(url, out, 5, client=client, **SETTINGS)}
    assert Counter(row.status for row in rows.values() if not row.reason) == {"written": 3, "failed": 1}
    assert {row.reason for row in rows.values() if row.reason} == left_out
    assert rows[first].status == "written"
    assert "must be an image" in rows[first.replace("000", "bad")].error
    check_results(folder, out)
    again = [row.status for row in module.deblur_files(url, out, 5, client=client, **SETTINGS)]
    assert Counter(again)["skipped"] == 3
    assert next(module.deblur_files(first, out, 5, client=client, **SETTINGS)).status == "skipped"


def test_places_in_stores_and_what_is_not_there(tmp_path: Path) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    for name in ("a/x.png", "a/b/y.png", "a/.hidden/z.png"):
        MemoryFileSystem().pipe_file(f"/{name}", b"x")

    def places(url: str, recursive: bool = False) -> list[str]:
        return [place.as_posix() for _, place in pictures_of([url], recursive=recursive)[0]]

    assert places("memory://a") == ["x.png"]
    assert places("memory://a/", recursive=True) == ["b/y.png", "x.png"]
    assert places("memory://a/*/*.png") == ["b/y.png"]
    assert places("memory://a/b/y.png") == ["y.png"]
    with pytest.raises(FileNotFoundError, match=r"memory://b\*.png names no file"):
        places("memory://b*.png")
    with pytest.raises(ValueError, match="nowhere://x must begin with a protocol of fsspec"):
        places("nowhere://x")
    (tmp_path / "bad.zip").write_bytes(b"nonsense")
    with pytest.raises(OSError, match=r"zip://\*.png::.*bad.zip cannot be read"):
        places(f"zip://*.png::{tmp_path}/bad.zip")
    with pytest.raises(ValueError, match=r"name its pictures, zip://\*.png::.*bad.zip"):
        pictures_of([tmp_path / "bad.zip"])


def test_a_protocol_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module("fsspec.registry")

    s3 = {"class": "no_s3fs.S3FileSystem", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(registry.known_implementations, "s3", s3)
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    with pytest.raises(ImportError, match="s3://bucket/x needs another package here and on all workers: Install s3fs"):
        pictures_of(["s3://bucket/x"])


def test_groups_are_of_equal_shape(tmp_path: Path) -> None:
    make_files(tmp_path / "in", 7)
    write_image(tmp_path / "in" / "003.png", np.zeros((24, 20), np.uint8))
    (tmp_path / "in" / "005.png").write_bytes(b"nonsense")
    with Journal(tmp_path / "out") as journal:
        decisions = decide(plan([tmp_path / "in"], tmp_path / "out").tasks, journal, "")
    groups = [
        [item.decision.task.source.stem for item in group.items] for group in module._groups(decisions, lambda _: 2)
    ]
    assert groups == [["000", "001"], ["002", "004"], ["005"], ["003"], ["006"]]


@pytest.mark.parametrize("memory", [None, 1 << 34, 1 << 22])
def test_groups_fit_the_memory(memory: int | None) -> None:
    settings = {"method": "two-step", "final": "sparse", "gamma": 1.0, "options": None}
    size = module._group_size((256, 256, 1), 25, settings, memory, on_gpu=False)
    assert size == (1 if memory == 1 << 22 else 8)
    assert module._group_size((256, 256, 1), 25, settings, memory, on_gpu=True) == 256
    assert module._group_size((256, 256, 1), 25, settings | {"method": "deepdeblur"}, memory, on_gpu=False) == 8


def test_the_header_says_what_the_pixels_are(tmp_path: Path) -> None:
    gray, color = np.zeros((20, 24), np.uint8), np.zeros((20, 24, 3), np.uint16)
    write_image(tmp_path / "gray.png", gray)
    write_image(tmp_path / "color.png", color, color[..., 0])
    write_image(tmp_path / "color.jpg", color)
    write_image(tmp_path / "float.tif", gray.astype(np.float32))
    for path in tmp_path.iterdir():
        pixels, header = read_image(path).pixels, read_header(path)
        assert header is not None
        assert header.shape == (*pixels.shape[:2], 1 if pixels.ndim == 2 else 3)
        assert header.dtype == pixels.dtype.name
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    assert read_header(tmp_path / "bad.png") is None
    assert read_header(tmp_path) is None


def test_the_header_is_upright(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    header = read_header(tmp_path / "turned.jpg")
    assert header is not None
    assert header.shape == (24, 20, 1)
    assert read_image(tmp_path / "turned.jpg").pixels.shape == (24, 20)


def test_two_drivers_on_one_folder_are_refused(client: Any, tmp_path: Path) -> None:
    folder, out = make_files(tmp_path / "in", 3), tmp_path / "out"
    with closing(module.deblur_files(folder, out, 5, client=client, **SETTINGS)) as first:
        next(first)
        with pytest.raises(BlockingIOError, match="must have one driver"):
            next(module.deblur_files(folder, out, 5, client=client, **SETTINGS))
    rows = [*module.deblur_files(folder, out, 5, client=client, **SETTINGS)]
    assert {row.status for row in rows} <= {"written", "skipped"}
    assert len(rows) == 3


def test_the_folder_must_be_writable_and_shared(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_files(tmp_path / "in", 2)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        next(module.deblur_files(folder, tmp_path / "file" / "out", 5, client=client, **SETTINGS))
    driver_lock = module._driver_lock

    @contextmanager
    def lock_of_another_disk(*arguments: Any) -> Iterator[Any]:
        with driver_lock(*arguments) as (path, _):
            yield path, "another token"

    monkeypatch.setattr(module, "_driver_lock", lock_of_another_disk)
    with pytest.raises(OSError, match="must be the same for the driver and all workers"):
        [*module.deblur_files(folder, tmp_path / "out", 5, client=client, **SETTINGS)]
    assert not [*(tmp_path / "out").glob("*.png")]


def test_a_client_must_have_workers_and_be_there(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "in", 1)
    cluster = distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0")
    with (
        cluster,
        distributed.Client(cluster, set_as_default=False) as empty,
        pytest.raises(ValueError, match="client must have workers, got none at inproc"),
    ):
        next(module.deblur_files(folder, tmp_path / "out", 5, client=empty, **SETTINGS))
    with pytest.raises(TypeError, match=r"client must be a synchronous distributed.Client, got str"):
        next(module.deblur_files(folder, tmp_path / "out", 5, client="tcp://localhost", **SETTINGS))
    with pytest.raises(ValueError, match="out must be on a disk that all workers share, got s3://bucket"):
        next(module.deblur_files(folder, "s3://bucket/sharp", 5, **SETTINGS))
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        next(module.deblur_files(folder, tmp_path / "out", 4, **SETTINGS))
    assert not (tmp_path / "out").exists()


def test_workers_that_cannot_do_the_work_are_refused() -> None:
    facts = module._Facts("0.1", 1, None, on_gpu=True)
    module._check_facts(facts, "tcp://w", "0.1")
    with pytest.raises(ValueError, match=r"workers must have gpudeblur 0.2 as the driver has, got 0.1 of tcp://w"):
        module._check_facts(facts, "tcp://w", "0.2")
    with pytest.raises(ValueError, match="workers on a GPU must have one thread, got 4 of tcp://w"):
        module._check_facts(module._Facts("0.1", 4, None, on_gpu=True), "tcp://w", "0.1")


class Died:
    """A client of workers that die with every group that holds a poisonous file."""

    status = "running"

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    def nthreads(self) -> dict[str, int]:
        return {"w": 1}

    def submit(self, function: Any, run: Any, group: Any, **_: Any) -> Any:
        self.groups.append([item.decision.task.source.stem for item in group.items])
        return Answer([item.decision.task for item in group.items])


class Answer:
    status = "finished"

    def __init__(self, tasks: Any) -> None:
        self.tasks = tasks

    def done(self) -> bool:
        return True

    def result(self) -> Any:
        if any("poison" in task.source.stem for task in self.tasks):
            raise module.KilledWorker("key", None, 0)
        return [task.outcome("written") for task in self.tasks], []


@pytest.mark.parametrize("retries", [0, 2])
def test_a_file_that_kills_workers_is_named_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    folder = make_files(tmp_path / "in", 4)
    (folder / "001poison.png").write_bytes((folder / "001.png").read_bytes())
    monkeypatch.setattr(distributed, "wait", lambda *_, **__: None)
    with Journal(tmp_path / "out") as journal:
        decisions = decide(plan([folder], tmp_path / "out").tasks, journal, "")
        client = Died()
        driver = module._Driver(client, None, journal, 2, retries)
        rows = [*driver.outcomes(module._groups(decisions, lambda _: 3))]
    assert client.groups == [
        ["000", "001", "001poison"], ["002", "003"], ["000"], ["001"], ["001poison"], *[["001poison"]] * (1 + retries)
    ]  # fmt: skip
    failed = [row for row in rows if row.status == "failed"]
    assert [Path(row.source).stem for row in failed] == ["001poison"]
    assert f"its worker died, {3 + retries} times" in failed[0].error
    assert len(rows) == 5
    assert [line["status"] for line in lines(tmp_path / "out")] == ["failed"]


def test_a_killed_group_goes_on_where_it_was(tmp_path: Path) -> None:
    """By the journal: what is written and what has failed stays, what was being written is done again."""
    folder, out = make_files(tmp_path / "in", 4), tmp_path / "out"
    with Journal(out) as journal:
        (group,) = module._groups(decide(plan([folder], out).tasks, journal, ""), lambda _: 4)
        statuses = {"000": "written", "001": "failed", "002": "writing"}
        for name, status in statuses.items():
            journal.append(out / f"{name}.png", status, confidence=0.5, error="bad" if status == "failed" else "")
        (out / "000.png").write_bytes(b"done")
        run = module._Run(journal.path, tmp_path, "", 0, 0, "", {}, 5, {}, {})
        outcomes, decisions = module._resume(run, journal, group)
    assert [(Path(row.source).stem, row.status, row.error) for row in outcomes] == [
        ("000", "written", ""), ("001", "failed", "bad"),
    ]  # fmt: skip
    assert [(decision.task.source.stem, decision.replaces) for decision in decisions] == [("002", True), ("003", False)]


def test_the_command_line_takes_a_scheduler(
    client: Any, wide: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpudeblur.cli.commands.two_step_options", lambda *_, **__: OPTIONS)
    folder = make_files(tmp_path / "in", 2)
    arguments = [
        "batch",
        str(folder),
        "-o",
        str(tmp_path / "out"),
        "-k",
        "5",
        "--final",
        "hyper-laplacian",
        "--gamma",
        "1",
    ]
    result = run(*arguments, "--cluster", client.scheduler.address)
    assert "2 of 2" in table(result)["written"]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two processes, which die of files called poison."""
    preload = tmp_path_factory.mktemp("preload") / "deadly_files.py"
    preload.write_text(PRELOAD)
    with dask.config.set(module.LOCAL_CONFIGURATION):
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50, preload=[str(preload)],
            scheduler_kwargs={"allowed_failures": 0},
        )  # fmt: skip
        with cluster, distributed.Client(cluster) as client:
            yield client


@pytest.mark.slow
def test_workers_are_killed_and_all_files_are_done_once(processes: Any, tmp_path: Path) -> None:
    """By a file, and by a signal."""
    folder, out = make_files(tmp_path / "in", 12, (40, 44)), tmp_path / "out"
    (folder / "poison.png").write_bytes((folder / "003.png").read_bytes())
    pid = next(iter(processes.run(os.getpid).values()))
    rows: list[Outcome] = []
    for row in module.deblur_files(folder, out, 5, client=processes, retries=0, **SETTINGS):
        if not rows:
            os.kill(pid, signal.SIGKILL)
        rows.append(row)
    assert Counter(row.status for row in rows) == {"written": 12, "failed": 1}
    (failed,) = (row for row in rows if row.status == "failed")
    assert Path(failed.source).name == "poison.png"
    assert "its worker died" in failed.error
    check_results(folder, out)
