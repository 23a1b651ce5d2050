"""`gpudeblur batch` again: what the journal says is done, and every way in which a run may end in the middle."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import COLOR, fails, run, table, wide
from test_folders import below, calls, photos

import gpudeblur as gd
from bench import kills, memory
from gpudeblur.batch import folders, report
from gpudeblur.batch.journal import JOURNAL_NAME, Journal, fingerprint
from gpudeblur.cli.terminal import signals_end_the_run
from gpudeblur.images import files
from gpudeblur.images.files import write_image

__all__ = ["calls", "photos", "wide"]  # fixtures


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / JOURNAL_NAME).read_text().splitlines()]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        write_image(folder / name, COLOR)
    return folder


def test_a_picture_has_two_lines(calls: list[Any], pair: Path, tmp_path: Path) -> None:
    (pair / "c.png").write_bytes(b"hello")
    out = tmp_path / "out"
    assert run("batch", pair, "-o", out, "-k", "5").exit_code == 1
    first, *journal = lines(out)
    assert (first["output"], first["status"], first["version"]) == ("", "run", "0.1.0")
    assert first["command"].startswith("gpudeblur batch ")
    failures = [line for line in journal if line["status"] == "failed"]
    journal = [line for line in journal if line["status"] != "failed"]
    assert [(line["output"], line["status"]) for line in journal] == [
        ("a.png", "writing"), ("a.png", "written"), ("b.png", "writing"), ("b.png", "written"),
    ]  # fmt: skip
    status = (pair / "a.png").stat()
    line = journal[1]
    assert (line["source"], line["size"], line["mtime_ns"]) == (
        str(pair / "a.png"), status.st_size, status.st_mtime_ns,
    )  # fmt: skip
    assert (line["confidence"], line["strength"], line["seconds"], line["version"]) == (0.9, 1.0, 1.5, "0.1.0")
    assert [line["output"] for line in failures] == ["c.png"]
    assert failures[0]["error"].startswith(f"{pair / 'c.png'} must be")


def test_results_of_other_options_are_not_done(calls: list[Any], pair: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch = ("batch", pair, "-o", out)
    assert run(*batch, "-k", "5").exit_code == 0
    assert table(run(*batch, "-k", "5", "--workers", "1"))["skipped"].startswith("2, there already")
    for options in (("-k", "7"), ("-k", "5", "--gamma", "1"), ("-k", "5", "--strength", "1")):
        rows = table(run(*batch, *options))
        assert rows["other options"].startswith("2, made with other options or another version, and kept; --overwrite")
        assert "skipped" not in rows
    assert len(calls) == 2
    assert run(*batch, "-k", "7", "--overwrite").exit_code == 0
    assert "skipped" in table(run(*batch, "-k", "7"))
    write_image(pair / "a.png", 255 - COLOR)
    os.utime(pair / "a.png", ns=(1, 1))
    rows = table(run(*batch, "-k", "7"))
    assert rows["source changed"].startswith("1, made before their pictures changed")
    assert rows["skipped"].startswith("1, ")
    (out / JOURNAL_NAME).unlink()
    rows = table(run(*batch, "-k", "7"))
    assert rows["not in the journal"].startswith("2, there already, made with unknown options")
    assert len(calls) == 4


def test_a_picture_that_was_begun_is_done_again(calls: list[Any], pair: Path, tmp_path: Path) -> None:
    """Also where all its files exist, which may be those of a run before."""
    out = tmp_path / "out"
    assert run("batch", pair, "-o", out, "-k", "5").exit_code == 0
    whole = (out / "a.png").read_bytes()
    text = (out / JOURNAL_NAME).read_text().splitlines(keepends=True)
    (out / "a.png").write_bytes(b"of an older run")
    (out / JOURNAL_NAME).write_text("".join(text[3:]) + text[1] + text[2][:20])  # the last line is torn
    rows = table(run("batch", pair, "-o", out, "-k", "5"))
    assert rows["written"].startswith("1 of 2")
    assert (out / "a.png").read_bytes() == whole
    assert lines_with_torn(out)[-1]["status"] == "written"
    assert table(run("batch", pair, "-o", out, "-k", "5"))["skipped"].startswith("2, ")


def lines_with_torn(out: Path) -> list[dict[str, Any]]:
    """Those that are whole."""
    journal = Journal(out)
    return [line for name in ("b.png", "a.png") if (line := journal.line(out / name)) is not None]


def test_the_options_that_decide_the_result_are_hashed() -> None:
    mask = np.ones((2000, 2000), bool)
    hashes = {fingerprint("1", {"mask": mask}), fingerprint("2", {"mask": mask}), fingerprint("1", {"mask": None})}
    mask[1000, 1000] = False  # left out of the text of an array
    assert fingerprint("1", {"mask": mask}) not in hashes
    assert len(hashes) == 3
    assert fingerprint("1", {"a": 1, "b": 2}) == fingerprint("1", {"b": 2, "a": 1})
    kernels = np.ones((2, 2, 41, 41))
    field = fingerprint("1", {"kernel": gd.KernelField(kernels, (90, 90))})
    kernels[1, 1, 20, 20] = 2  # likewise
    assert fingerprint("1", {"kernel": gd.KernelField(kernels, (90, 90))}) != field
    options = [gd.TwoStepOptions(prior=gd.priors.DarkChannel(weight=weight)) for weight in (0.1, 0.1, 0.2)]
    first, same, other = (fingerprint("1", {"options": value}) for value in options)
    assert first == same != other


def test_damaged_lines_of_a_journal_do_not_count(tmp_path: Path) -> None:
    whole = {"output": "a.png", "status": "written"}
    lines = ["[1]", "null", '"a"', '{"output": ["x"], "status": "written"}', '{"output": "b"', json.dumps(whole), "{"]
    (tmp_path / JOURNAL_NAME).write_text("\n".join(lines))
    assert Journal(tmp_path).line(tmp_path / "a.png") == whole
    assert Journal(tmp_path).line(tmp_path / "b.png") is None


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_empty_files_and_folders_are_not_done(
    calls: list[Any], pair: Path, tmp_path: Path, overwrite: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    (out / "b.png").mkdir(parents=True)
    (out / "a.png").write_bytes(b"")
    result = run("batch", pair, "-o", out, "-k", "5", *overwrite)
    assert result.exit_code == 1
    assert "b.png is a folder; name a file in it" in table(result)["failed"]
    assert (out / "a.png").stat().st_size > 0
    (tmp_path / "k" / "a.npy").mkdir(parents=True)
    result = run(
        "batch", pair / "a.png", "-o", tmp_path / "out2", "-k", "5", "--kernels-out", tmp_path / "k", *overwrite
    )
    assert result.exit_code == 1
    assert "a.npy is a folder; name a file in it" in table(result)["failed"]
    assert len(calls) == 1


def test_what_appears_during_the_run_is_not_replaced(
    calls: list[Any], pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    read = folders.read_image

    def read_image(path: Path) -> Any:
        out.mkdir(exist_ok=True)
        (out / "a.png").write_bytes(b"mine")
        return read(path)

    monkeypatch.setattr(folders, "read_image", read_image)
    rows = table(run("batch", pair, "-o", out, "-k", "5"))
    assert rows["written"].startswith("1 of 2")
    assert rows["skipped"].startswith("1, ")
    assert (out / "a.png").read_bytes() == b"mine"


def test_names_that_differ_in_case_alone_are_refused(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    write_image(photos / "A.PNG", COLOR)
    fails(run("batch", photos, "-o", tmp_path / "out", "-k", "5"), "output files must differ in more than case, got")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [AssertionError(), IndexError("palette"), RecursionError("deep")])
def test_any_error_of_reading_is_that_pictures(
    calls: list[Any], pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    read = folders.read_image

    def read_image(path: Path) -> Any:
        if path.name == "a.png":
            raise error
        return read(path)

    monkeypatch.setattr(folders, "read_image", read_image)
    result = run("batch", pair, "-o", tmp_path / "out", "-k", "5")
    assert result.exit_code == 1
    text = f"{type(error).__name__}: {error}" if str(error) else "AssertionError"
    assert table(result)["failed"] == f"{pair / 'a.png'}: {text}"
    assert below(tmp_path / "out") == ["b.png"]


def test_all_that_is_left_out_has_a_row(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MP4", "README"):
        (photos / name).write_text("hello")
    os.mkfifo(photos / "pipe.png")
    (tmp_path / "elsewhere").mkdir()
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    (photos / "zz.png").symlink_to("zz.png")  # a loop, which fails by itself
    result = run("batch", photos, "-r", "-o", photos / "out", "-k", "5", "--report", tmp_path / "r.json")
    assert result.exit_code == 1, result.output
    assert "zz.png" in table(result)["failed"]
    assert table(result)["left out"] == (
        "8: 2 .mp4, 2 hidden, 1 .txt, 1 link to a folder (name it to take it), 1 no regular file, 1 without suffix"
    )
    rows = [row for row in json.loads((tmp_path / "r.json").read_text()) if row["status"] == "left out"]
    assert {Path(row["source"]).name: row["reason"] for row in rows}["pipe.png"] == "no regular file"
    assert len(rows) == 8


def test_a_folder_that_cannot_be_read_fails(
    calls: list[Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = run("batch", photos, "-r", "-o", tmp_path / "out", "-k", "5")
    assert result.exit_code == 1
    assert table(result)["failed"].startswith(f"folder {photos / 'more'} cannot be read (Permission denied)")
    assert below(tmp_path / "out") == ["a.png", "b.tif", "c.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_odd_names_are_written_and_reported(calls: list[Any], pair: Path, tmp_path: Path, suffix: str) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (pair / "a.png").rename(pair / name)
    (pair / "\u65e5.png").write_text("hello")
    result = run("batch", pair, "-o", tmp_path / "out", "-k", "5", "--report", tmp_path / f"r{suffix}")
    assert result.exit_code == 1
    assert "written" in table(result)
    data = (tmp_path / f"r{suffix}").read_bytes()
    assert (b"caf\xe9.png" if suffix == ".csv" else b"caf\\udce9.png") in data
    assert (tmp_path / "out" / name).exists()


def test_a_report_that_cannot_be_written_is_said_after_the_summary(
    calls: list[Any], pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_whole", full)
    result = run("batch", pair, "-o", tmp_path / "out", "-k", "5", "--report", tmp_path / "r.csv", "-v")
    assert result.exit_code == 2
    assert table(result)["written"].startswith("2 of 2")
    error = result.stderr.splitlines()[-1]
    assert error.startswith(
        f"error: report {tmp_path / 'r.csv'} cannot be written ([Errno 28] No space left on device)"
    )
    monkeypatch.undo()
    assert run("batch", pair, "-o", tmp_path / "out", "-k", "5", "--report", tmp_path / "r.csv").exit_code == 0


def test_a_journal_that_cannot_be_written_fails_the_picture(
    calls: list[Any], pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / JOURNAL_NAME).mkdir(parents=True)
    fails(run("batch", pair, "-o", tmp_path / "out", "-k", "5"), "Is a directory")
    (tmp_path / "out" / JOURNAL_NAME).rmdir()
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) // 2)
    result = run("batch", pair, "-o", tmp_path / "out", "-k", "5")
    assert result.exit_code == 1
    assert table(result)["failed"].count(f"the journal {tmp_path / 'out' / JOURNAL_NAME} cannot be written") == 2
    assert below(tmp_path / "out") == []


def test_a_dry_run_does_nothing(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.tif").write_bytes(b"an older result")
    result = run("batch", photos, "-o", out, "-k", "5", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"write: {photos / 'a.png'} -> {out / 'a.png'}",
        f"not in the journal: {photos / 'b.tif'} -> {out / 'b.tif'}",
        f"write: {photos / 'c.png'} -> {out / 'c.png'}",
        f"left out: {photos / '.f.png'}, hidden",
        f"left out: {photos / 'more'}, folder (--recursive takes it)",
        f"left out: {photos / 'notes.txt'}, .txt",
    ]
    assert calls == []
    assert [file.name for file in out.iterdir()] == ["b.tif"]


def test_shards_share_the_work(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    batch = ("batch", photos, "-o", tmp_path / "out", "-k", "5")
    assert run(*batch, "--shard", "1/2").exit_code == 0
    assert below(tmp_path / "out") == ["a.png", "c.png"]
    assert table(run(*batch, "--shard", "2/2"))["written"].startswith("1 of 1")
    assert table(run(*batch))["skipped"].startswith("3, ")
    for text in ("0/2", "3/2", "2", "a/b"):
        fails(run(*batch, "--shard", text), "--shard must be I/N with I from 1 to N, got")


def test_quiet_says_what_failed_alone(calls: list[Any], pair: Path, tmp_path: Path) -> None:
    result = run("batch", pair, "-o", tmp_path / "out", "-k", "5", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    (pair / "c.png").write_text("hello")
    result = run("batch", pair, "-o", tmp_path / "out", "-k", "5", "-q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{pair / 'c.png'} must be")


# ---- runs that are killed


def test_temporary_files_of_killed_runs_are_removed(calls: list[Any], pair: Path, tmp_path: Path) -> None:
    """But not while another run is at work in the folder."""
    out, kernels = tmp_path / "out", tmp_path / "k"
    for folder in (out, kernels):
        folder.mkdir()
    batch = ("batch", pair, "-o", out, "-k", "5", "--kernels-out", kernels, "--overwrite")

    def kill_while_writing(path: Path) -> None:
        """What a killed `write_whole` leaves."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: None)
            files.write_whole(path, b"half")

    for folder in (out, kernels):
        kill_while_writing(folder / "a")
        assert len([name for name in below(folder) if name.endswith(".tmp")]) == 1
    with Journal(out) as other:
        other.append(out / "z.png", "failed")
        kill_while_writing(out / "a")
        assert run(*batch).exit_code == 0
        assert len(below(out)) == 3
    assert run(*batch).exit_code == 0
    assert below(out) == ["a.png", "b.png"]
    assert below(kernels) == ["a.npy", "b.npy"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_its_report(
    calls: list[Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """It comes while the second result is written."""
    rename, out = os.replace, tmp_path / "out"

    def replace(source: Any, target: Any) -> None:
        if Path(target) == out / "b.tif":
            os.kill(os.getpid(), number)
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    before = signal.getsignal(number)
    batch = ("batch", photos, "-o", out, "-k", "5", "--report", tmp_path / "r.json")
    result = run(*batch)
    assert result.exit_code == 128 + number
    assert result.stderr.splitlines()[-1] == "stopped: 1 of 3 written; the same command goes on"
    assert result.stdout == ""
    assert below(out) == ["a.png"]
    report_rows = json.loads((tmp_path / "r.json").read_text())
    assert [row["status"] for row in report_rows] == ["written", "left out", "left out", "left out"]
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so(calls: list[Any], pair: Path, tmp_path: Path) -> None:
    """As of nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_end_the_run():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_runs_go_on_to_equal_results(tmp_path: Path) -> None:
    outcome = kills.kill_and_resume(tmp_path, pictures=8, kills=3)
    assert outcome.kills.total() == 3
    assert outcome.pictures >= 8
    assert (outcome.damaged, outcome.temporary, outcome.not_in_journal, outcome.not_in_report) == ([], [], [], [])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_bench_of_memory_counts_bad_files(tmp_path: Path) -> None:
    outcome = memory.measure(tmp_path, 20)
    assert outcome.statuses == {"written": 19, "failed": 1}
    assert outcome.statuses_again == {"skipped": 19, "written": 1}
    assert len(outcome.megabytes) == 10
