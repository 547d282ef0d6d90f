"""Where the workers are: processes of this machine that `local` starts, or an existing cluster that `cluster` finds."""

import asyncio
import json
import logging
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import dask.config
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Security
from distributed.core import rpc
from distributed.system import MEMORY_LIMIT
from distributed.versions import VersionMismatchWarning

from analyses.engine import NoWorkers
from analyses.interrupt import held_back
from analyses.task import THREADS
from analyses.workers.driver import ByWorkers
from analyses.workers.link import DaskLink, linked

STARTS = 4  # attempts; one or two may fail by chance
CONNECTING = 5  # seconds after which a scheduler that does not answer is not there
LARGEST_FILE = 1 << 20  # bytes of a scheduler's file; a real one has some thousands
HOW = "see that it runs and can be reached from here"


class Unreachable(ValueError):
    """A scheduler that cannot be spoken to."""


@contextmanager
def local(workers: int | None, wait: float, tell: Callable[[str], None]) -> Iterator[ByWorkers]:
    """Processes of this machine, one a core by default, started when there is something to measure.

    They listen on the loopback interface alone. Each may use its share of the memory, and is started anew beyond it.
    """

    @contextmanager
    def connect() -> Iterator[DaskLink]:
        count = workers or CPU_COUNT
        settings = {
            # The threads, and nothing else: what dask sets besides changes how memory is given back, and so the times.
            "distributed.nanny.pre-spawn-environ": dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), THREADS),
            "distributed.worker.multiprocessing-method": "spawn",
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.profile.enabled": False,
            "distributed.scheduler.http.routes": [],  # dask cannot do without a port for its pages, but without pages
            "distributed.worker.http.routes": [],
        }
        with _quiet(), dask.config.set(settings):
            with held_back():
                started = _started(count)
            with started, Client(started, timeout=CONNECTING) as client, linked(client, tell) as link:
                try:
                    yield link
                finally:
                    _end(started)

    yield ByWorkers("local", connect, wait, tell)


@contextmanager
def cluster(address: str, tls: dict[str, str], wait: float, tell: Callable[[str], None]) -> Iterator[ByWorkers]:
    """The workers of a scheduler, by its address or the file that it writes; connected to at once.

    Raises `Unreachable` within seconds where it does not answer, `Mismatched` where its workers are of other versions.
    """
    where = scheduler_address(address)
    if where.startswith("tls://") != bool(tls):
        raise Unreachable(
            f"--cluster: expected a tls:// address and --tls-ca, --tls-cert, --tls-key together, found {where} "
            f"{'with' if tls else 'without'} them; give both or neither"
        )
    with _quiet():
        with held_back():
            client = _client(where, tls)
        with client, linked(client, tell) as link:
            yield ByWorkers("cluster", lambda: nullcontext(link), wait, tell)


def _started(count: int) -> LocalCluster:
    """So many processes with their scheduler; raises `NoWorkers` where they will not start.

    dask starts none if a process dies while it starts, as one does that is killed, or that the memory is too small for.
    """
    for _ in range(STARTS - 1):
        with suppress(RuntimeError):
            return _start(count)
    try:
        return _start(count)
    except RuntimeError as error:
        raise NoWorkers(
            f"--workers: expected {count} processes to start, found that one died or failed in each of {STARTS} "
            f"attempts ({error}); take fewer, or --engine inline"
        ) from None


def _start(count: int) -> LocalCluster:
    return LocalCluster(
        n_workers=count, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False}, memory_limit=MEMORY_LIMIT // count, silence_logs=logging.CRITICAL,
    )  # fmt: skip


def _end(started: LocalCluster) -> None:
    """End the worker processes at once: what is still at work in them is wanted no more, and they keep nothing."""
    nannies: Any = started.workers.values()
    for nanny in nannies:
        nanny.close_gracefully()  # lest it start the process again
        if nanny.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def scheduler_address(text: str) -> str:
    """The address as dask spells it, from `HOST:PORT`, `tcp://HOST:PORT`, `tls://HOST:PORT`, or a scheduler's file."""
    if re.fullmatch(r"(tcp|tls)://\S+:\d+", text):
        return text
    if re.fullmatch(r"[^\s/]+:\d+", text):
        return f"tcp://{text}"
    expected = f"--cluster: expected an address as tcp://HOST:PORT, or a scheduler's file, found {text!r}"
    path = Path(text)
    if not path.is_file():
        raise Unreachable(f"{expected}, and no such file; {HOW}")
    try:
        found = json.loads(path.read_bytes()[:LARGEST_FILE])["address"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str) or not re.fullmatch(r"(tcp|tls)://\S+:\d+", found):
        raise Unreachable(f"{expected}, which names no such address; give the file that `dask scheduler` wrote")
    return found


def _client(address: str, tls: dict[str, str]) -> Client:
    security: Any = Security(**tls, require_encryption=True) if tls else Security()
    try:
        # A client that cannot connect leaves a thread behind that holds up the end of the process: so ask first.
        asyncio.run(_ask(address, security.get_connection_args("client")))
        return Client(address, timeout=CONNECTING, security=security, set_as_default=False)
    except Exception as error:  # whatever a port that is no scheduler's may cause
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise Unreachable(f"--cluster: expected a dask scheduler at {address}, found {reason:.200}; {HOW}") from None


async def _ask(address: str, connection: Any) -> None:
    """Ask whoever listens whether it is a scheduler."""
    scheduler: Any = rpc(address, timeout=CONNECTING, connection_args=connection)
    try:
        answer = await asyncio.wait_for(scheduler.identity(n_workers=0), CONNECTING)
    finally:
        await scheduler.close_rpc()
    if answer["type"] != "Scheduler":
        raise OSError(f"a {answer['type']}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without dask's own remarks; what a user should know is told in the words of this program."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)
            yield
    finally:
        logger.setLevel(before)
