"""Many slides over the workers of a Dask cluster: one task a slide, one slide at a time on a worker."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, Worker, WorkerPlugin, get_worker, wait
from distributed.scheduler import KilledWorker
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from histo import __version__
from histo.cells.build import Detector
from histo.config import Config
from histo.errors import ClusterError, ConfigError, DiskError, HistoError, LockLostError
from histo.run.cluster_config import LocalWorkers, RunningScheduler, SlurmWorkers, Workers
from histo.run.detector import ready_detector
from histo.run.device import choose_device, describe_device, n_cuda
from histo.run.lock import Owner, check_owner, guarded
from histo.run.memory import share_freed_memory
from histo.run.outcome import Place, SlideOutcome, SlideTask, analyse_task

log = logging.getLogger("histo")

# A slide whose worker dies is tried so often, each time on the next free worker.
TRIES = 3
_WORKER_BYTES = 2e9
_TICK_S = 1.0
_REPORT_S = 0.5
_PATIENCE_S = 60.0
_FOLDER_S = 30.0
_GPU = "GPU"

# A worker with several threads gives all of them to one slide.
_one_slide_at_a_time = threading.Lock()


class _DeafToCtrlC(WorkerPlugin):
    """Ctrl-C reaches all processes of a terminal; the run itself ends its workers."""

    def setup(self, worker: Worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _Order:
    """A slide and all that a worker has to know to do it as this process would."""

    number: int
    task: SlideTask
    config: Config
    detector_sha256: str
    histo_version: str
    threads: int | None  # None: as many as the worker has
    n_gpus: int  # among which local workers choose; 0: as configured
    work_folder: str
    out: Path
    token: str


@dataclass(frozen=True)
class _Reply:
    """What comes back: the outcome or why the worker cannot take part, and what was logged."""

    outcome: SlideOutcome | None
    unfit: str | None
    records: list[dict[str, Any]]


class _Records(logging.Handler):
    """Keeps what is logged, in a form that travels."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(
            {
                "name": record.name,
                "levelno": record.levelno,
                "levelname": record.levelname,
                "msg": record.getMessage(),
                "created": record.created,
                "msecs": record.msecs,
            }
        )


@contextlib.contextmanager
def _recorded() -> Iterator[list[dict[str, Any]]]:
    handler = _Records()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield handler.kept
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


_detectors: dict[tuple[str, str, str], Detector] = {}


def _detector(config: Config, sha256: str) -> Detector:
    """Build and try out a detector once for all slides of a worker; `sha256` is that of the run's weights."""
    key = (config.cells.model_dump_json(), config.run.device, sha256)
    if key not in _detectors:
        _detectors.clear()
        detector, trial = ready_detector(config)
        if detector.sha256 != sha256:
            raise ClusterError("it sees other weights than this run", fix="Let all read the same files")
        if trial is not None:
            log.info("%s on %s: %s", detector.name, describe_device(detector.device, config.run), trial)
        _detectors[key] = detector
    return _detectors[key]


def device_of(wanted: str, worker_name: int | str, n_gpus: int) -> str:
    """Return the device of a worker of this machine: its GPUs are dealt out in turn.

    Parameters
    ----------
    wanted : `run.device` of the configuration. One that names a single GPU means this GPU.
    worker_name : local workers are numbered.
    n_gpus : 0 leaves the choice to the configuration.
    """
    if n_gpus == 0 or wanted not in ("auto", "cuda"):
        return wanted
    return f"cuda:{int(worker_name) % n_gpus}"


def _work(order: _Order) -> _Reply:
    """Do one slide on a worker."""
    worker = get_worker()
    host = socket.gethostname()
    with _one_slide_at_a_time, _recorded() as records:
        try:
            with contextlib.chdir(order.work_folder):
                return _Reply(_work_here(order, worker, host), None, records)
        except (LockLostError, DiskError):
            raise
        except (HistoError, OSError) as error:
            return _Reply(None, f"worker {worker.name} on {host} cannot take part: {error}", records)


def _work_here(order: _Order, worker: Worker, host: str) -> SlideOutcome:
    if order.histo_version != __version__:
        raise ClusterError(
            f"it has histo {__version__}, this run is of {order.histo_version}",
            fix="Install the same version everywhere",
        )
    _see_folder(order)
    share_freed_memory()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    threads = order.threads or worker.state.nthreads
    run = order.config.run
    here = {
        "threads": threads,
        "reader_threads": min(run.reader_threads, threads),
        "device": device_of(run.device, worker.name, order.n_gpus),
    }
    config = order.config.model_copy(update={"run": run.model_copy(update=here)})
    detector = _detector(config, order.detector_sha256)
    place = Place(host, os.getpid(), describe_device(detector.device, config.run), detector.name)
    told = 0.0

    def report(done: int, of: int) -> None:
        nonlocal told
        now = time.monotonic()
        if done in (0, of) or now - told >= _REPORT_S:
            told = now
            event = {"number": order.number, "place": str(place), "done": done, "of": of}
            worker.log_event(_topic(order.token), event)

    # A worker that dies before its first tile has been seen with this slide too.
    report(0, 1)
    return analyse_task(order.task, config, detector, place, guarded(report, order.out, order.token))


def _see_folder(order: _Order) -> None:
    """Raise ClusterError where the results folder that this worker sees is not that of the run."""
    until = time.monotonic() + _FOLDER_S
    while True:
        try:
            check_owner(order.out, order.token)
            return
        except LockLostError:
            # A network file system may show a new file late.
            if time.monotonic() > until:
                raise ClusterError(
                    "it does not see the results folder of this run",
                    path=order.out,
                    fix="Use a folder that all machines share",
                ) from None
        time.sleep(_TICK_S)


def _topic(token: str) -> str:
    return f"histo-{token}"


def analyse_on_workers(
    tasks: Sequence[SlideTask],
    config: Config,
    workers: Workers,
    *,
    detector_sha256: str,
    out: Path,
    owner: Owner,
    report: Callable[[int, int, int], None],
) -> Generator[tuple[int, SlideOutcome]]:
    """Analyse slides on the workers of a cluster; yield number and outcome of each as it is done.

    A slide whose worker dies is begun again on another, `TRIES` times on a cluster of our own and as often as
    a running scheduler has it; then it is a failed row. Closing the generator cancels what is not done.

    Parameters
    ----------
    out, owner : the results folder, which all workers must see, and who holds its lock.
    report : called with (number of the slide, tiles done, tiles in all), from another thread.

    Raises
    ------
    ConfigError : there is no such cluster, or it has not what the configuration needs.
    ClusterError : a worker cannot do this work, or the scheduler was lost.
    DiskError : a worker cannot write results any more.
    """
    with _cluster(workers, config, len(tasks), out) as (client, threads, n_gpus):
        orders = [
            _Order(
                number=number,
                task=task,
                config=config,
                detector_sha256=detector_sha256,
                histo_version=__version__,
                threads=threads,
                n_gpus=n_gpus,
                work_folder=str(Path.cwd()),
                out=out.absolute(),
                token=owner.token,
            )
            for number, task in enumerate(tasks)
        ]
        begun_at: dict[int, str] = {}

        def on_event(event: tuple[float, dict[str, Any]]) -> None:
            number, place = event[1]["number"], event[1]["place"]
            before = begun_at.setdefault(number, place)
            if before != place:
                begun_at[number] = place
                log.warning("%s: begun again by %s; %s was lost", tasks[number].job.slide_id, place, before)
            report(number, event[1]["done"], event[1]["of"])

        client.subscribe_topic(_topic(owner.token), on_event)
        if isinstance(workers, LocalWorkers):
            client.register_plugin(_DeafToCtrlC())
        on_gpu = config.run.device.startswith("cuda") or n_gpus > 0
        yield from _dispatch(client, orders, {_GPU: 1} if on_gpu else {})


def _dispatch(
    client: Client, orders: Sequence[_Order], needs: dict[str, int]
) -> Generator[tuple[int, SlideOutcome]]:
    # No more slides are handed out than workers can begin: a dying worker is held against each that it has.
    waiting = deque(orders)
    running: dict[Future[_Reply], _Order] = {}
    last_fit = time.monotonic()
    try:
        while waiting or running:
            n_fit = _n_fit(client, needs)
            while waiting and len(running) < n_fit:
                order = waiting.popleft()
                key = f"{_topic(order.token)}-{order.number}"
                running[client.submit(_work, order, key=key, pure=False, resources=needs)] = order
            if n_fit or any(future.done() for future in running):
                last_fit = time.monotonic()
            elif time.monotonic() - last_fit > _PATIENCE_S:
                last_fit = time.monotonic()
                log.warning("still no worker is there; waiting for one")
            for future in _done(running):
                yield _outcome(future, running.pop(future))
    finally:
        if running and client.status == "running":
            client.cancel(list(running), force=True)


def _n_fit(client: Client, needs: dict[str, int]) -> int:
    """Return how many workers can take a slide; ConfigError where none of those there can."""
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except (OSError, TimeoutError) as error:
        raise _scheduler_lost(error) from None
    n_fit: int = sum(needs.keys() <= worker["resources"].keys() for worker in workers)
    if workers and not n_fit:
        raise ConfigError(
            "a CUDA device is asked for, and no worker announces one",
            fix="Start workers with --resources GPU=1, or use --device auto or cpu",
        )
    return n_fit


def _done(running: dict[Future[_Reply], _Order]) -> list[Future[_Reply]]:
    """Wait a little; return what is done by then."""
    if not running:
        time.sleep(_TICK_S)
        return []
    try:
        wait(list(running), timeout=_TICK_S, return_when="FIRST_COMPLETED")
    except TimeoutError:
        return []
    except Exception:
        # Cancelled by the loss of the scheduler; told below.
        pass
    return [future for future in running if future.done()]


def _outcome(future: Future[_Reply], order: _Order) -> tuple[int, SlideOutcome]:
    if future.status == "cancelled":
        raise _scheduler_lost(None)
    error = future.exception()
    if isinstance(error, LockLostError | DiskError):
        raise error
    if isinstance(error, KilledWorker):
        text = (
            f"each of {error.allowed_failures + 1} workers died while it analysed this slide, the last on "
            f"{error.last_worker.host}: most likely out of "
            "memory. Give workers more of it, or analyse this slide alone"
        )
        return order.number, SlideOutcome(order.task.failed(text), False, 0.0, None)
    if error is not None:
        text = f"unexpected {type(error).__name__} on a worker: {error}"
        return order.number, SlideOutcome(order.task.failed(text), False, 0.0, None)
    reply: _Reply = future.result()
    for record in reply.records:
        log.handle(logging.makeLogRecord(record))
    if reply.outcome is None:
        raise ClusterError(
            reply.unfit or "", fix="Mend or leave out this worker, and run the same command again to go on"
        )
    return order.number, reply.outcome


def _scheduler_lost(error: Exception | None) -> ClusterError:
    return ClusterError(
        "the connection to the scheduler was lost" + (f" ({error})" if error else ""),
        fix="Start it again, and run the same command to go on where it was",
    )


@contextlib.contextmanager
def _cluster(
    workers: Workers, config: Config, n_slides: int, out: Path
) -> Iterator[tuple[Client, int | None, int]]:
    """Start or join a cluster; give a client, threads of a worker, and GPUs to deal to local ones."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        threads, n_gpus = None, 0
        try:
            if isinstance(workers, RunningScheduler):
                target: Any = workers.address
            elif isinstance(workers, SlurmWorkers):
                target = stack.enter_context(_slurm(workers, config, n_slides, out))
                threads = workers.cores // workers.workers_per_job
            else:
                n_gpus = _n_gpus(config.run.device)
                n = workers.n or _n_local(n_slides, config.run.device, n_gpus)
                threads = max(1, CPU_COUNT // n)
                target = stack.enter_context(_local(n, on_gpu=n_gpus > 0))
            client = stack.enter_context(Client(target, set_as_default=False))
        except (OSError, TimeoutError, RuntimeError) as error:
            fix = None
            if isinstance(workers, RunningScheduler):
                fix = "Start one with `dask scheduler`, and workers with `dask worker` (see docs/cluster.md)"
            raise ConfigError(f"no workers by --cluster {workers}: {error}", fix=fix) from None
        yield client, threads, n_gpus


def _n_gpus(device: str) -> int:
    """Return among how many GPUs local workers choose; 0 where the run is not on a GPU."""
    return n_cuda() if choose_device(device) != "cpu" else 0


def _n_local(n_slides: int, device: str, n_gpus: int) -> int:
    """Return how many workers this machine has cores, memory or GPUs for."""
    if n_gpus:
        return min(n_slides, n_gpus if device in ("auto", "cuda") else 1)
    return max(1, min(n_slides, CPU_COUNT, int(MEMORY_LIMIT // _WORKER_BYTES)))


def _local(n: int, *, on_gpu: bool) -> LocalCluster:
    return LocalCluster(
        n_workers=n,
        threads_per_worker=1,
        processes=True,
        # What a worker holds is a network and tiles, nothing that Dask could spill.
        memory_limit=0,
        dashboard_address=None,
        # Else any user of this machine could hand these workers a task.
        security=True,
        silence_logs=logging.CRITICAL,
        scheduler_kwargs={"allowed_failures": TRIES - 1},
        resources={_GPU: 1} if on_gpu else None,
    )


@contextlib.contextmanager
def _slurm(workers: SlurmWorkers, config: Config, n_slides: int, out: Path) -> Iterator[Any]:
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise ConfigError(
            "workers by Slurm need dask-jobqueue, which is not installed", fix="pip install 'histo[slurm]'"
        ) from None
    if shutil.which("sbatch") is None:
        raise ConfigError("there is no sbatch here", fix="Run this where jobs of Slurm can be submitted")
    if config.run.device.startswith("cuda") and not workers.gpus:
        raise ConfigError("a CUDA device is asked for, and jobs have no GPU", fix="Add gpus: 1 to the file")
    on_gpu = ["--resources", f"{_GPU}=1"] if workers.gpus else []
    gres = [f"--gres=gpu:{workers.gpus}"] if workers.gpus else []
    with (
        # Among all folders, workers surely see this one. Only its owner may look inside.
        tempfile.TemporaryDirectory(prefix=".keys-", dir=out, ignore_cleanup_errors=True) as keys,
        SLURMCluster(
            cores=workers.cores,
            memory=workers.memory,
            processes=workers.workers_per_job,
            walltime=workers.walltime,
            queue=workers.queue,
            account=workers.account,
            job_extra_directives=[*gres, *workers.extra],
            job_script_prologue=list(workers.prologue),
            interface=workers.interface,
            local_directory=workers.local_directory,
            log_directory=workers.log_directory,
            # Slurm itself ends a job that takes too much; Dask would pause it for good.
            # One thread of Dask's for one slide, which has all the cores of the worker.
            worker_extra_args=["--memory-limit", "0", "--nthreads", "1", "--no-dashboard", *on_gpu],
            security=_security(Path(keys).absolute()),
            silence_logs="critical",
            scheduler_options={"dashboard_address": None, "allowed_failures": TRIES - 1},
        ) as cluster,
    ):
        cluster.scale(jobs=min(workers.jobs, -(-n_slides // workers.workers_per_job)))
        yield cluster


def _security(folder: Path) -> Security:
    """Make keys for the connections of one run, as files that jobs can read."""
    made = Security.temporary()
    names = [f"tls_{role}_{part}" for role in ("client", "scheduler", "worker") for part in ("key", "cert")]
    paths = {name: folder / name for name in ("tls_ca_file", *names)}
    for name, path in paths.items():
        path.write_text(getattr(made, name), encoding="ascii")
    return Security(require_encryption=True, **{name: str(path) for name, path in paths.items()})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log off the console: what matters of it comes back as an error or a line of ours."""
    names = [
        name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")
    ]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
