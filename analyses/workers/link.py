"""The link to workers by dask: processes of this machine, or those of an existing scheduler; one code for both.

The driver says which worker gets which task (`analyses/workers/dispatch.py`); dask carries the messages, tells who is
alive, and starts processes again that died. Its own retries would blame a cell for what the one beside it did.
"""

import asyncio
import concurrent.futures
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

from distributed import Future

from analyses.task import answers
from analyses.workers.dispatch import Task, Worker
from analyses.workers.driver import Answered, Broken, Seen
from analyses.workers.facts import differences, facts
from analyses.workers.facts import facts as facts_here

LOOKING = 0.5, 5.0  # seconds between looks at who is alive, of few workers and of many
MANY = 32
CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)
SILENT = 10.0  # seconds after which a scheduler that does not answer is taken to be away


class Mismatched(ValueError):
    """A worker whose digits would not be this driver's."""


@dataclass
class DaskLink:
    """Tasks to the workers of a client's cluster and back; made by `linked`, and run in the client's event loop."""

    client: Any  # a `Client`, which dask types as if it were not connected
    tell: Callable[[str], None]
    mine: dict[str, str]
    events: "Queue[Answered | Broken | Seen]" = field(default_factory=Queue)
    machines: Counter[str] = field(default_factory=Counter)
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _sent: dict[int, Future] = field(default_factory=dict)
    _known: dict[str, Worker | None] = field(default_factory=dict)  # None until found fit, and for the unfit
    _present: dict[str, Any] = field(default_factory=dict)
    _examined: dict[str, asyncio.Task[str]] = field(default_factory=dict)
    _told: tuple[tuple[Worker, ...], bool] | None = None

    def send(self, task: Task, text: str, mode: str) -> None:
        """Have the task's worker measure it."""
        self._sent[task.number] = self._submit(answers, text, mode, name=str(task.number), address=task.worker.address)
        self.client.loop.add_callback(self._follow, task.number, self._sent[task.number])

    def forget(self, number: int) -> None:
        """Be told no more of a task; one that waits on its worker is not measured."""
        future = self._sent.pop(number, None)
        if future is not None and not future.done():
            future.cancel()

    def _submit(self, function: Any, *arguments: Any, name: str, address: str) -> Future:
        return self.client.submit(
            function, *arguments, key=f"gradgauge-{self.run}-{name}", workers=[address], pure=False
        )  # fmt: skip

    async def _follow(self, number: int, future: Future) -> None:
        try:
            self.events.put(Answered(number, await future))
        except CANCELLED:  # by us, or by a scheduler that was started anew
            self.events.put(Broken(number, None))
        except Exception as error:
            dead = type(error).__name__ == "KilledWorker"  # of which the next look tells more
            if not dead:
                self.events.put(Broken(number, f"{type(error).__name__}: {' '.join(str(error).split()):.300}"))

    async def look(self) -> list[str]:
        """Ask the scheduler once who is alive, and examine those that are new; what is wrong with them."""
        try:
            answer = await asyncio.wait_for(self.client.scheduler.identity(n_workers=-1), SILENT)
        except (TimeoutError, OSError):  # the scheduler is away: nobody can be sent anything, nobody is dead
            self._tell_of((), ())
            return []
        self._present = answer["workers"]
        died = tuple(address for address in self._known if address not in self._present)
        new = {address: info for address, info in self._present.items() if address not in self._known}
        for address in died:
            del self._known[address]
            if address in self._examined:
                self._examined[address].cancel()
        self._known |= dict.fromkeys(new)
        examinations = {address: asyncio.ensure_future(self._examine(address, info)) for address, info in new.items()}
        self._examined |= examinations
        self._tell_of(self._fit(), died)
        wrong = await asyncio.gather(*examinations.values())
        self._tell_of(self._fit(), ())
        return [line for line in wrong if line]

    async def keep_looking(self) -> None:
        """Look again and again; a worker that came late and is unfit is told of, and left out."""
        looks: set[asyncio.Task[Any]] = set()
        while True:
            await asyncio.sleep(LOOKING[len(self._known) > MANY])
            # An examination lasts as long as its worker takes to load torch, and ends early if a later look misses it.
            looks = {look for look in looks if not look.done()}
            looks.add(asyncio.ensure_future(self._look_and_tell()))

    async def _look_and_tell(self) -> None:
        for line in await self.look():
            self.tell(f"{line}; it is left out")

    def _fit(self) -> tuple[Worker, ...]:
        running = [self._known.get(address) for address, info in self._present.items() if info["status"] == "running"]
        return tuple(worker for worker in running if worker is not None)

    def _tell_of(self, alive: tuple[Worker, ...], died: tuple[str, ...]) -> None:
        now = alive, bool(self._examined)
        if died or now != self._told:
            self._told = now
            self.events.put(Seen(alive, died, coming=now[1]))

    async def _examine(self, address: str, info: dict[str, Any]) -> str:
        """Let the worker in if it is fit; else what is wrong with it."""
        future = self._submit(facts, name=f"facts-{uuid.uuid4().hex[:8]}", address=address)
        expected = f"worker {address}: expected this gradgauge and its libraries there"
        try:
            theirs = await future
        except CANCELLED:  # it died
            return ""
        except Exception as error:
            if type(error).__name__ == "KilledWorker":
                return ""
            return f"{expected}, found {type(error).__name__}: {' '.join(str(error).split()):.200}; install the same"
        finally:
            self._examined.pop(address, None)
        wrong = differences(self.mine, theirs)
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            return f"{expected}, found {'; '.join(wrong[:3])}{more}; install the same"
        if address in self._known:
            self._known[address] = Worker(address, info["host"], info["nthreads"])
            self.machines[f"{theirs['processor']}, {theirs['cpu capability']}"] += 1
        return ""


@contextmanager
def linked(client: Any, tell: Callable[[str], None]) -> Iterator[DaskLink]:
    """A link to the workers of the client's cluster; the block is entered when those that are there are examined.

    Raises `Mismatched` where one of them has another version of the code or of a library, or another arithmetic.
    """
    link = DaskLink(client, tell, facts_here())
    looking = client.sync(_begun, link)
    try:
        wrong = client.sync(link.look)
        if wrong:
            more = f" (and {len(wrong) - 1} more workers)" if len(wrong) > 1 else ""
            raise Mismatched(wrong[0] + more)
        yield link
    finally:
        client.loop.add_callback(looking.cancel)
        for number in list(link._sent):
            with suppress(Exception):  # the scheduler may be gone
                link.forget(number)


async def _begun(link: DaskLink) -> "asyncio.Task[None]":
    return asyncio.ensure_future(link.keep_looking())
