"""Files deblurred by the workers of a Dask cluster: `deblur_files`, the engine of `gpudeblur batch --cluster` too.

The driver, which calls it, reads names, headers and the journal. The workers read, deblur and write groups of pictures
and append to the journal; no pixel passes through the driver. Needs the extra `dask`, and a folder for the results on a
disk that the driver and all workers share.
"""

from __future__ import annotations

import math
import os
import secrets
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .batch import folders
from .batch.cpu import NETWORK_STACK, STACK_IMAGES, STACK_PIXELS
from .batch.folders import FIGURES, Decision, FileTask, Outcome, decide, plan
from .batch.gpu import GROUP_PIXELS
from .batch.iterator import deblur_batch, deconvolve_batch
from .batch.journal import Journal, file_state, fingerprint, read_lines
from .batch.memory import bytes_per_image
from .blind.options import TwoStepOptions
from .blind.restore import network_names
from .images import checks
from .images.header import read_header
from .images.stored_file import as_source
from .numerics.allocator import keep_freed_memory
from .numerics.arrays import Array, choose_module
from .numerics.user_warnings import warn
from .priors import Prior

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import distributed
    from distributed.scheduler import KilledWorker
except ImportError as why:
    raise ImportError('gpudeblur.distributed needs Dask; pip install "gpudeblur[dask]"') from why

MEMORY_FRACTION = 0.5  # of a worker's memory limit, which a group may take
GPU_GROUP = 256  # pictures, of which the worker computes together what fits its device
GROUPS_PER_THREAD = 2  # at least, where there are enough pictures: so that no worker waits long for the last ones
PENDING = 4096  # pictures whose headers are read ahead, to find those of equal shape
POLL = 1.0  # seconds between looks at the number of workers
# Seconds from the start of a worker that a group waits whose worker died: a nanny does not start a worker again that
# dies before it has told of its start.
SETTLING = 2.0
_START = time.monotonic()
WORKER_TIMEOUT = 120.0  # seconds without any worker, after which the run ends


# For a cluster on one machine. A worker that dies is started again, however long that takes on a busy machine; no
# samples of stacks, and half of the idle work of the event loops.
LOCAL_CONFIGURATION = {
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
}


class StoreError(OSError):
    """A worker does not write into the folder of the driver."""


def deblur_files(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    kernel_size: int | tuple[int, int] | None = None,
    *,
    client: Any = None,
    kernels: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    recursive: bool = False,
    suffix: str | None = None,
    overwrite: bool = False,
    bits: int | None = None,
    quality: int | None = None,
    strip: bool = False,
    in_flight: int = 2,
    retries: int = 1,
    device: str | None = "auto",
    method: str = "two-step",
    final: str | None = "sparse",
    gamma: float | str = 1.0,
    white: float | str | None = None,
    mask: Array | str | None = None,
    defects: str | None = "auto",
    region: tuple[slice, slice] | str = "auto",
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
) -> Generator[Outcome, None, None]:
    """Deblur files on the workers of a Dask cluster; the outcome of each, as it happens.

    Names, results and journal are those of ``gpudeblur batch``: files that a run with the same options has done are
    skipped, and an interrupted run is resumed by the same call. The loop may be left at any time; the groups that are
    computed then are still written.

    Parameters
    ----------
    paths : file or folder, or several of them
        On a disk that the driver and all workers share; or URLs of what fsspec opens: a file, a folder or a pattern,
        such as ``s3://bucket/photos``, ``s3://bucket/*/*.jpg`` or ``zip://*.png::photos.zip``. The driver reads the
        headers, and each worker its pictures. s3:// needs the package s3fs, gs:// gcsfs, here and on the workers, which
        log in by their surroundings.
    out, kernels, masks : folders
        For the sharp pictures, for the kernels if wanted (.npy), and of masks with the names of their pictures. On a
        disk that the driver and all workers share, no URLs: the journal, beside the results, is appended to.
    kernel_size, device, method, final, gamma, white, mask, defects, region, prior, options
        As in `deblur_batch`. `device` is looked for by each worker.
    client : distributed.Client, optional
        None: the current one. Each worker should have one thread, and must have on a GPU: one worker a device, as
        `dask_cuda.LocalCUDACluster` makes them. The workers need the same version of gpudeblur.
    recursive : bool
        Whether to take folders within folders.
    suffix : str, optional
        Of the sharp pictures, such as ".png". None keeps that of each source, if its format is written.
    overwrite : bool
        Whether to replace results that exist.
    bits, quality, strip : see `write_image`; `strip` leaves out the metadata of the sources.
    in_flight : int
        Groups submitted at a time for each thread of the workers. A group is pictures of equal shape, as many as are
        computed together and fit half of a worker's memory limit.
    retries : int
        A group whose worker died is computed again picture by picture, a picture whose worker died is computed again
        alone in the cluster, at the end, and then so often. If its worker dies each time, its outcome is "failed". The
        scheduler's ``allowed-failures`` multiplies these deaths; 0 is best. A picture that raises an error is not
        computed again.

    Yields
    ------
    Outcome
        In no certain order, one for each picture, and for each file or folder that is left out.

    Raises
    ------
    TypeError, ValueError, OSError
        At the first outcome: an argument is wrong for every picture; the client has no workers, or its workers have
        another version, several threads on a GPU, or another disk; the folder cannot be written, or has another driver.
    RuntimeError
        The scheduler or all workers are gone; what was done is in the journal.

    Examples
    --------
    >>> from dask.distributed import Client, LocalCluster
    >>> import gpudeblur as gd
    >>> with Client(LocalCluster(threads_per_worker=1)) as client:              # doctest: +SKIP
    ...     for outcome in gd.distributed.deblur_files("photos", "sharp", 31, client=client):
    ...         print(outcome.source, outcome.status, outcome.confidence)
    """
    sources = [as_source(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    out_folder, kernel_folder = _local(out, "out"), None if kernels is None else _local(kernels, "kernels")
    mask_folder = None if masks is None else _local(masks, "masks")
    if masks is not None and mask is not None:
        raise ValueError(f"mask must be left out with masks, got {type(mask).__name__}; a folder has one a picture")
    settings: dict[str, Any] = {
        "method": method, "final": final, "gamma": gamma, "white": white, "mask": mask, "defects": defects,
        "region": region,
    }  # fmt: skip
    if prior is not None:
        options = replace(options or TwoStepOptions(), prior=prior)
    picture_plan = plan(
        sources, out_folder, kernels=kernel_folder, recursive=recursive, suffix=suffix, masks=mask_folder
    )
    version = _version()
    encoding: dict[str, Any] = {"bits": bits, "quality": quality, "strip": strip}
    identity = settings | encoding | {"kernel_size": kernel_size, "options": options}
    run_fields = {"fingerprint": fingerprint(version, identity), "version": version, "options": ""}
    with Journal(out_folder, {file.parent for task in picture_plan.tasks for file in task.outputs}) as journal:
        decisions = decide(picture_plan.tasks, journal, run_fields["fingerprint"], overwrite=overwrite)
        yield from picture_plan.outcomes
        yield from run_on_cluster(
            decisions,
            journal,
            run_fields,
            kernel_size,
            client=client,
            in_flight=in_flight,
            retries=retries,
            device=device,
            options=options,
            **encoding,
            **settings,
        )


def _local(path: str | os.PathLike[str], name: str) -> Path:
    if "://" in os.fspath(path):
        raise ValueError(
            f"{name} must be on a disk that all workers share, got {os.fspath(path)}; mount it: the journal needs a "
            "disk on which files can be appended to. Only the pictures that are read may be in a store"
        )
    return Path(path)


def _version() -> str:
    return str(import_module(__package__).__version__)


# ---- the driver


@dataclass(frozen=True)
class _Run:
    """What the workers need to know of a run, sent with every group."""

    journal: Path
    lock: Path
    token: str
    start: int  # bytes of the journal that earlier runs have written
    driver: int  # process
    version: str
    run_fields: dict[str, Any]
    kernel_size: Any
    encoding: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Item:
    """A picture to be done, with absolute paths, and the states of its outputs before the run."""

    decision: Decision
    states: list[list[int] | None]


@dataclass(frozen=True)
class _Group:
    """Pictures that one task computes, how many workers have died with them, and how often it was alone before."""

    items: list[_Item]
    batch_size: int = 1
    deaths: int = 0
    alone: int = 0


def run_on_cluster(
    decisions: Sequence[Decision],
    journal: Journal,
    run_fields: dict[str, Any],
    kernel_size: Any = None,
    *,
    client: Any = None,
    in_flight: int = 2,
    retries: int = 1,
    bits: int | None = None,
    quality: int | None = None,
    strip: bool = False,
    lock_name: str = "run",
    **settings: Any,
) -> Generator[Outcome, None, None]:
    """`batch.folders.deblur_files` on the workers of a cluster; see `deblur_files` here.

    `lock_name`: two runs of the same name into one folder are refused, as those of different shards are not.
    """
    checks.check_count("in_flight", in_flight)
    checks.check_count("retries", retries, minimum=0)
    plain = {name: value for name, value in settings.items() if name not in ("device", "workers")}
    # Checks all arguments but the device.
    if "kernel" in plain:
        deconvolve_batch([], channel_axis=-1, **plain).close()
    else:
        deblur_batch([], kernel_size, channel_axis=-1, **plain).close()
    client = _current_client(client)
    facts = _facts_of_workers(client, settings.get("device"))
    to_do = [decision for decision in decisions if decision.writes]
    names = {str(decision.task.output.absolute()): decision.task for decision in to_do}
    with _driver_lock(journal.path.parent, lock_name) as (lock, token):
        yield from (decision.outcome for decision in decisions if not decision.writes)
        journal.hold()  # so that no worker is alone with it, and lists whole folders for temporary files of others
        start = journal.path.stat().st_size if journal.path.exists() else 0
        encoding: dict[str, Any] = {"bits": bits, "quality": quality, "strip": strip}
        run = _Run(
            journal.path.absolute(), lock.absolute(), token, start, os.getpid(), _version(), run_fields, kernel_size,
            encoding, settings,
        )  # fmt: skip
        memory = min((fact.memory for fact in facts if fact.memory), default=None)
        on_gpu = any(fact.on_gpu for fact in facts)
        limit = max(1, math.ceil(len(to_do) / (GROUPS_PER_THREAD * sum(fact.threads for fact in facts))))
        groups = _groups(to_do, lambda shape: min(limit, _group_size(shape, kernel_size, settings, memory, on_gpu)))
        for outcome in _Driver(client, run, journal, in_flight, retries).outcomes(groups):
            task = names.pop(outcome.output)
            yield replace(task.outcome(outcome.status), **{name: getattr(outcome, name) for name in _RESULT_FIELDS})


_RESULT_FIELDS = ("error", "reason", "options", *FIGURES)


class _Driver:
    """Submits groups, a bounded number at a time, and takes their outcomes."""

    def __init__(self, client: Any, run: _Run, journal: Journal, in_flight: int, retries: int) -> None:
        self._client, self._run, self._journal = client, run, journal
        self._in_flight, self._retries = in_flight, retries
        self._running: dict[Any, _Group] = {}
        self._suspects: deque[_Group] = deque()  # single pictures whose worker died with others
        self._alone: deque[_Group] = deque()  # those whose worker died again: nothing else is computed beside them
        self._threads, self._checked, self._seen = 0, -math.inf, time.monotonic()

    def outcomes(self, groups: Iterator[_Group]) -> Iterator[Outcome]:
        try:
            while True:
                self._submit(groups)
                if not self._running:
                    return
                yield from self._wait()
        finally:
            if self._running:
                with suppress(Exception):  # of a scheduler that is gone
                    self._client.cancel([*self._running])

    def _submit(self, groups: Iterator[_Group]) -> None:
        self._count_threads()
        while len(self._running) < max(1, self._in_flight * self._threads):
            group = self._suspects.popleft() if self._suspects else next(groups, None)
            if group is None and self._alone and not self._running:
                group = self._alone.popleft()
                group = replace(group, alone=group.alone + 1)
            if group is None:
                return
            self._running[self._client.submit(_deblur_group, self._run, group, pure=False)] = group
            if group.alone:
                return

    def _count_threads(self) -> None:
        """Look at the workers now and then: they come and go."""
        now = time.monotonic()
        if now - self._checked < POLL:
            return
        try:
            threads = sum(self._client.nthreads().values())
        except Exception as error:
            raise _lost(self._client) from error
        self._threads, self._checked = threads, now
        if threads:
            self._seen = now
        elif now - self._seen > WORKER_TIMEOUT:
            raise RuntimeError(
                f"all workers are gone for {WORKER_TIMEOUT:.0f} s; start some, and call again: what was done is in the "
                "journal"
            )

    def _wait(self) -> Iterator[Outcome]:
        """The outcomes of the groups that end next, within a second."""
        try:
            distributed.wait([*self._running], timeout=POLL, return_when="FIRST_COMPLETED")
        except distributed.TimeoutError:
            if self._client.status != "running":
                raise _lost(self._client) from None
            return
        except Exception as error:
            raise _lost(self._client) from error
        for future in [future for future in self._running if future.done()]:
            group = self._running.pop(future)
            if future.status == "cancelled":
                raise _lost(self._client)
            try:
                outcomes, texts = future.result()
            except KilledWorker:  # also where a worker died with its answer, and the next one with the group
                yield from self._worker_died(group)
            else:
                for text in texts:
                    warn(text)
                yield from outcomes

    def _worker_died(self, group: _Group) -> Iterator[Outcome]:
        singles = [_Group([item], 1, group.deaths + 1, group.alone) for item in group.items]
        if group.deaths == 0:
            self._suspects.extend(singles)
        elif group.alone <= self._retries:
            self._alone.extend(singles)
        else:
            task = group.items[0].decision.task
            text = (
                f"its worker died, {group.deaths + 1} times, at last with no other picture in the cluster; leave it "
                "out, or give the workers more memory"
            )
            with suppress(OSError):
                self._journal.append(task.output, "failed", source=str(task.source), error=text)
            yield replace(task.outcome("failed"), error=text)


def _lost(client: Any) -> RuntimeError:
    address = getattr(getattr(client, "scheduler", None), "address", "")
    return RuntimeError(
        f"the scheduler {address} does not answer; start it, and call again: what was done is in the journal"
    )


def _current_client(client: Any) -> Any:
    if client is None:
        try:
            client = distributed.get_client()
        except ValueError as error:
            raise ValueError(
                "client must be a distributed.Client, got None, and there is no current one; make one, such as "
                "Client(LocalCluster(threads_per_worker=1))"
            ) from error
    if not isinstance(client, distributed.Client) or client.asynchronous:
        kind = "an asynchronous one" if isinstance(client, distributed.Client) else type(client).__name__
        raise TypeError(f"client must be a synchronous distributed.Client, got {kind}; make one by Client(address)")
    return client


@contextmanager
def _driver_lock(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Hold the lock of the driver of a folder: (its file, the token in it, by which workers know the folder)."""
    path, token = folder / f".gpudeblur-{name}.lock", secrets.token_hex(8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
        os.write(descriptor, token.encode())
    except BlockingIOError as error:
        raise BlockingIOError(
            f"output folder {folder} must have one driver, another run is at work on it; wait for its end, or choose "
            "another folder"
        ) from error
    except OSError as error:
        raise OSError(f"output folder {folder} cannot be written ({error}); choose another place") from error
    try:
        yield path, token
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _locked(path: Path) -> int:
    """The descriptor of the file, made empty, with an exclusive lock; BlockingIOError if another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                os.truncate(descriptor, 0)
                return descriptor
        except FileNotFoundError:  # the driver that had it has ended, and removed the file
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _groups(decisions: Iterable[Decision], size_of: Any) -> Iterator[_Group]:
    """The pictures in groups of equal shape, in about their order; those without a readable header one by one."""
    pending: dict[Any, list[_Item]] = {}
    count = 0

    def group(header: Any) -> _Group:
        nonlocal count
        items = pending.pop(header)
        count -= len(items)
        return _Group(items, size_of(header.shape))

    for decision in decisions:
        header = read_header(decision.task.source)
        item = _item(decision)
        if header is None:
            yield _Group([item])
            continue
        items = pending.setdefault(header, [])
        items.append(item)
        count += 1
        if len(items) >= size_of(header.shape):
            yield group(header)
        elif count >= PENDING:
            yield group(max(pending, key=lambda header: len(pending[header])))
    while pending:
        yield group(next(iter(pending)))


def _item(decision: Decision) -> _Item:
    task = decision.task
    source = task.source.absolute() if isinstance(task.source, Path) else task.source
    paths = (task.kernel, task.comparison, task.mask)
    further = (None if path is None else path.absolute() for path in paths)
    absolute = FileTask(source, task.output.absolute(), *further)
    writes = [file.absolute() for file in decision.writes]
    states = [_state(file) for file in absolute.outputs]
    return _Item(Decision(absolute, absolute.outcome(decision.outcome.status), writes, decision.replaces), states)


def _state(path: Path) -> list[int] | None:
    try:
        return file_state(path)
    except OSError:
        return None


def _group_size(
    shape: tuple[int, int, int], kernel_size: Any, settings: dict[str, Any], memory: int | None, on_gpu: bool
) -> int:
    """How many pictures of a shape a worker reads and computes in one task, at most."""
    has_model = "kernel" not in settings and settings["method"] not in network_names()  # of memory
    pixels = max(1, math.prod(shape))
    if on_gpu:
        return max(1, min(GPU_GROUP, GROUP_PIXELS // pixels))
    count = min(STACK_IMAGES, STACK_PIXELS // pixels) if has_model else NETWORK_STACK
    if memory is not None and has_model:
        names = ("final", "gamma", "options")
        try:
            size = bytes_per_image(
                shape[:2], kernel_size, channels=shape[2], **{name: settings[name] for name in names}
            )
        except ValueError:  # a kernel that does not fit, which is the outcome of that picture
            return 1
        count = min(count, int(MEMORY_FRACTION * memory / size))
    return max(1, count)


# ---- the workers


@dataclass(frozen=True)
class _Facts:
    version: str
    threads: int
    memory: int | None
    on_gpu: bool


def _facts_of_workers(client: Any, device: str | None) -> list[_Facts]:
    """What the workers are; raises if they cannot do the work."""
    try:
        answers = client.run(_facts, device, on_error="return")
    except Exception as error:
        raise _lost(client) from error
    if not answers:
        raise ValueError(f"client must have workers, got none at {client.scheduler.address}; start some")
    for address, answer in answers.items():
        if isinstance(answer, BaseException):
            if isinstance(answer, RuntimeError | ValueError):
                raise answer
            raise ImportError(
                f"workers need gpudeblur {_version()}, {address} answers {answer!r}; install it there"
            ) from answer
        _check_facts(answer, address, _version())
    return [*answers.values()]


def _facts(device: str | None, dask_worker: Any) -> _Facts:
    """The facts of a worker, which `Client.run` gives by this name."""
    on_gpu = device in ("cuda", "auto") and choose_module(np.empty(0), device) is not np
    return _Facts(_version(), dask_worker.state.nthreads, dask_worker.memory_manager.memory_limit, on_gpu)


def _check_facts(facts: _Facts, address: str, version: str) -> None:
    if facts.version != version:
        raise ValueError(
            f"workers must have gpudeblur {version} as the driver has, got {facts.version} of {address}; install the "
            "same version everywhere"
        )
    if facts.on_gpu and facts.threads > 1:
        raise ValueError(
            f"workers on a GPU must have one thread, got {facts.threads} of {address}; start one worker a GPU, such as "
            "by dask_cuda.LocalCUDACluster() or dask cuda worker --nthreads 1"
        )


def _deblur_group(run: _Run, group: _Group) -> tuple[list[Outcome], list[str]]:
    """The outcomes of the pictures of a group, and the warnings."""
    worker = distributed.get_worker()
    facts = _facts(run.settings.get("device"), worker)  # of a worker that came during the run
    _check_facts(facts, worker.address, run.version)
    try:
        is_shared = run.lock.read_text() == run.token
    except OSError:
        is_shared = False
    if not is_shared:
        raise StoreError(
            f"output folder {run.lock.parent} must be the same for the driver and all workers, {worker.address} has "
            "another or none; put it on a disk that they share, and do not remove it during a run"
        )
    if group.deaths:
        time.sleep(max(0.0, _START + SETTLING - time.monotonic()))
    keep_freed_memory()
    settings = run.settings | {"workers": 1}
    if not facts.on_gpu and "kernel" not in settings:
        settings["batch_size"] = group.batch_size
    output_folders = {file.parent for item in group.items for file in item.decision.writes}
    with Journal(run.journal.parent, output_folders) as journal:
        outcomes, decisions = _resume(run, journal, group)
        results = folders.deblur_files(decisions, journal, run.run_fields, run.kernel_size, **run.encoding, **settings)
        if os.getpid() == run.driver or facts.threads > 1:  # where warnings are those of other threads, too
            return [*outcomes, *results], []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outcomes += results
        return outcomes, [*dict.fromkeys(str(warning.message) for warning in caught)]


def _resume(run: _Run, journal: Journal, group: _Group) -> tuple[list[Outcome], list[Decision]]:
    """Outcomes of what a worker that died, or whose answer was lost, has done of a group, and what is left to do."""
    outcomes: list[Outcome] = []
    is_begun = any([_state(file) for file in item.decision.task.outputs] != item.states for item in group.items)
    if not is_begun and not group.deaths:
        return outcomes, [item.decision for item in group.items]
    lines = {line["output"]: line for line in read_lines(run.journal, run.start)}
    decisions = []
    for item in group.items:
        task = item.decision.task
        line = lines.get(journal.key(task.output), {"status": ""})
        if line["status"] in ("written", "failed"):
            figures: dict[str, Any] = {name: line.get(name) for name in (*FIGURES, "error")}
            outcomes.append(replace(task.outcome(line["status"]), **figures))
        elif line["status"] == "writing":
            decisions.append(replace(item.decision, writes=task.outputs, replaces=True))
        else:
            decisions.append(item.decision)
    return outcomes, decisions
