"""Rounds of kill -9 at random moments, each resumed: `python -m benchmarks.kill_rounds --rounds 100`.

A round runs `gradgauge run steps` on many small cells into a folder, by two processes of this machine or by a cluster
of two workers, and kills one process of it after a random time: the driver, a worker, or (of a cluster) a nanny with
its worker. Then it looks: every cell that a line on stderr had acknowledged must be in the store. The next round
goes on in the same folder; when a run ends, its table must be that of an undisturbed run, byte for byte, and the next
round begins a new one. What was found is kept in a file as it is found, so that the script too can be killed and goes
on. It ends with 1 if anything was lost.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import psutil

ROOT = Path(__file__).resolve().parent.parent
VICTIMS = ("driver", "worker", "nanny")


@dataclass(frozen=True)
class Round:
    """What was killed when, in a run of which engine; what had been acknowledged, and what of it was missing."""

    number: int
    engine: str
    victim: str
    after: float
    killed: bool
    acknowledged: int
    lost: int
    exit_code: int
    finished: bool
    same: bool


def command(cells: int, folder: Path, *who: str) -> list[str]:
    """A run of so many small cells, in two arithmetics."""
    seeds = ",".join(map(str, range(cells // 2)))
    asked = ("--problem", "quadratic[dimension=6]", "--steps", "0,1,4", "--iterations", "1,2", "--tasks", "2", "--seed",
             seeds, "--precision", "float32,extended", "--reference-seconds", "9", "--yes")  # fmt: skip
    return [sys.executable, str(ROOT / "cli.py"), "run", "steps", *asked, "--out", str(folder), *who]


def descendants(pid: int) -> list[psutil.Process]:
    """All processes that one has started."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(pid: int) -> list[psutil.Process]:
    """The worker processes below one."""
    found = []
    for child in descendants(pid):
        try:
            if any("spawn_main" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


class Kept(Exception):
    """What a store must not lose."""


def in_store(folder: Path) -> set[str]:
    """The cells in the store, as the lines on stderr name them."""
    from analyses.store import Store

    path = folder / "run.sqlite"
    if not path.exists():
        return set()
    with Store(path).reading() as kept:
        keys = kept.keys()  # verifies every cell
        found = kept.database.execute("select key, spec from cell").fetchall()
    if len(found) != len(keys):
        raise Kept(f"{len(found)} cells under {len(keys)} keys")
    specs = [json.loads(spec) for _, spec in found]
    names = [f"{spec['problem']}, {spec['precision']}, seed {spec['seed']}" for spec in specs]
    if len(set(names)) != len(names):
        raise Kept("a cell is there twice")
    return set(names)


def cluster(stack: ExitStack, folder: Path) -> tuple[Path, list[subprocess.Popen[bytes]]]:
    """A scheduler and two workers with nannies, ended with the stack: the scheduler's file, and the nannies."""
    file = folder / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def dask(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(file), "--host", "127.0.0.1",
             "--no-dashboard"],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(end, process)
        return process

    dask("scheduler", "--port", "0")
    while not file.exists():
        time.sleep(0.1)
    return file, [dask("worker", "--nthreads", "1", "--local-directory", str(folder)) for _ in range(2)]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    family = descendants(process.pid)
    process.kill()
    process.wait()
    for child in family:
        if child.is_running():
            child.kill()


def play(number: int, chance: random.Random, cells: int, folder: Path, whole: bytes, longest: float) -> Round:
    """One round in the folder."""
    victim = chance.choice(VICTIMS)
    engine = (
        "cluster" if victim == "nanny" else chance.choice(("local", "cluster", "inline")[: 2 + (victim == "driver")])
    )
    after = chance.uniform(0.0, longest)
    acknowledged: list[str] = []
    with TemporaryDirectory() as other, ExitStack() as stack:
        who, nannies = (), []
        if engine == "cluster":
            file, nannies = cluster(stack, Path(other))
            who = ("--cluster", str(file))
        elif engine == "local":
            who = ("--workers", "2")
        process = subprocess.Popen(
            command(cells, folder, *who), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        stack.callback(lambda: [child.kill() for child in workers(process.pid)])

        def listen() -> None:
            assert process.stderr is not None
            with process.stderr:
                for line in process.stderr:
                    if line.startswith("[") and "] " in line:
                        acknowledged.append(line.partition("] ")[2].rpartition(":")[0])

        ear = Thread(target=listen)
        ear.start()
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            pass
        killed = process.poll() is None and kill(victim, chance, process, nannies)
        code = process.wait(timeout=600)
        ear.join()
    found = in_store(folder)
    finished = code == 0
    same = not finished or (folder / "tables" / "steps.csv").read_bytes() == whole
    lost = len(set(acknowledged) - found)
    return Round(number, engine, victim, round(after, 2), killed, len(acknowledged), lost, code, finished, same)


def kill(
    victim: str, chance: random.Random, process: subprocess.Popen[str], nannies: list[subprocess.Popen[bytes]]
) -> bool:
    """Send SIGKILL to one process of the kind, where there is one by now."""
    if victim == "driver":
        process.kill()
        return True
    if victim == "nanny":
        chance.choice(nannies).kill()
        return True
    hosts = [process.pid] if not nannies else [nanny.pid for nanny in nannies]
    alive = [worker for pid in hosts for worker in workers(pid)]
    if not alive:
        return False
    try:
        os.kill(chance.choice(alive).pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Play the rounds that are missing, then print what was found."""
    parser = argparse.ArgumentParser(description="rounds of kill -9, each resumed")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--cells", type=int, default=80)
    parser.add_argument("--longest", type=float, default=20.0, help="seconds after which a process is killed at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "kill_rounds")
    options = parser.parse_args()
    log, folder = options.folder / "rounds.jsonl", options.folder / "run"
    options.folder.mkdir(parents=True, exist_ok=True)
    whole = options.folder / "whole"
    undisturbed = command(options.cells, whole)
    subprocess.run(undisturbed, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    table = (whole / "tables" / "steps.csv").read_bytes()

    rounds = [Round(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    for number in range(len(rounds), options.rounds):
        found = play(number, random.Random(f"{options.seed} {number}"), options.cells, folder, table, options.longest)
        rounds.append(found)
        with log.open("a") as file:
            file.write(json.dumps(asdict(found)) + "\n")
        print(found, flush=True)
        if found.finished:
            shutil.rmtree(folder)

    kinds = Counter(f"{found.victim} of {found.engine}" for found in rounds if found.killed)
    codes = Counter(found.exit_code for found in rounds)
    print(f"\n{len(rounds)} rounds, {sum(kinds.values())} kills: {dict(kinds)}; exit codes {dict(codes)}")
    print(f"runs that ended: {sum(found.finished for found in rounds)}, "
          f"with another table than the undisturbed: {sum(not found.same for found in rounds)}")  # fmt: skip
    print(f"cells acknowledged: {sum(found.acknowledged for found in rounds)}, "
          f"of these lost: {sum(found.lost for found in rounds)}")  # fmt: skip
    expected = all(found.exit_code in (0, -9) for found in rounds)
    sys.exit(0 if expected and not any(found.lost or not found.same for found in rounds) else 1)


if __name__ == "__main__":
    main()
