"""A dask cluster as a user would start it: a scheduler and two workers with nannies, each a process of its own."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Security
from distributed.core import rpc

from tests.analyses.pretend import MODULE

ROOT = Path(__file__).parent.parent.parent.parent


@dataclass(frozen=True)
class Cluster:
    """The scheduler's file and process, and the nannies'."""

    file: Path
    scheduler: subprocess.Popen[bytes]
    nannies: tuple[subprocess.Popen[bytes], ...]


@contextmanager
def cluster(folder: Path, workers: int, *, nanny: bool = True, tls: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """A cluster on the loopback interface, gone with the block."""
    file = folder / "scheduler file.json"
    where = ("--host", "127.0.0.1", "--no-dashboard", *tls)
    protocol = ("--protocol", "tls") if tls else ()
    with ExitStack() as stack:
        scheduler = started(stack, "scheduler", "--port", "0", "--scheduler-file", str(file), *where, *protocol)
        end = time.monotonic() + 30
        while not file.exists():
            assert time.monotonic() < end and scheduler.poll() is None
            time.sleep(0.05)
        own = ("--nthreads", "1", "--local-directory", str(folder), "--preload", MODULE)
        options = (*own, *where, *protocol, "--nanny" if nanny else "--no-nanny")
        nannies = [started(stack, "worker", "--scheduler-file", str(file), *options) for _ in range(workers)]
        end = time.monotonic() + 60
        while len(joined(file, tls)) < workers:
            assert time.monotonic() < end
            time.sleep(0.2)
        yield Cluster(file, scheduler, tuple(nannies))


def joined(file: Path, tls: tuple[str, ...]) -> dict[str, object]:
    """The workers that the scheduler knows of."""
    address = json.loads(file.read_text())["address"]
    files = dict(zip(("tls_ca_file", "tls_client_cert", "tls_client_key"), tls[1::2], strict=False))
    security = Security(**files)

    async def ask() -> dict[str, object]:
        scheduler: Any = rpc(address, connection_args=security.get_connection_args("client"))
        try:
            return (await scheduler.identity(n_workers=-1))["workers"]
        finally:
            await scheduler.close_rpc()

    return asyncio.run(ask())


def started(stack: ExitStack, *arguments: str) -> subprocess.Popen[bytes]:
    """`dask ...` that ends, with what it started, when the stack does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments], cwd=ROOT, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    stack.callback(ended, process)
    return process


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    family = children(process.pid)
    process.kill()
    process.wait()
    for child in family:
        if child.is_running():
            child.kill()


def children(pid: int) -> list[psutil.Process]:
    """All that a process has started, near and far, that still runs."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes that a driver or a nanny has started."""
    return [child for child in children(pid) if any("spawn_main" in word for word in child.cmdline())]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), 2) as found:
        yield found
