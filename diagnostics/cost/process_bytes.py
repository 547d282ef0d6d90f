"""The memory that a process takes for a call, as the system sees it, and the memory that is free.

The high-water mark counts the pages that were in memory at once: tensors, and what `live_bytes` cannot see, the
workspaces of kernels, autograd's nodes, Python's objects, code that is loaded on first use, and pages that were freed
and not given back. It comes in pages, differs a little from run to run, and is only of interest for calls of some
megabytes.
"""

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

STATUS, PEAK, RESET = Path("/proc/self/status"), "VmHWM", Path("/proc/self/clear_refs")
LIMITS = (  # of a control group, which may allow less than the machine has: the most, and what is used
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def process_bytes(set_up: Callable[[], Callable[[], object]]) -> int | None:
    """By how much the call that `set_up` gives raises the high-water mark of a fresh process; None where it was killed.

    `set_up` must be picklable: a function of a module, or a `functools.partial` of one. What it does first is not
    counted, so it should make the call once in small: else the libraries that a first call loads are. The child runs
    on as many threads as this process. Raises `RuntimeError` where the child raised.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(set_up, torch.get_num_threads(), theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:  # it died without a word: there is not enough memory
        found = None
    finally:
        child.join()
        ours.close()
    if isinstance(found, str):
        raise RuntimeError(f"process_bytes: expected the call to run in a fresh process, found {found}")
    return found


def _child(set_up: Callable[[], Callable[[], object]], threads: int, answer: Connection) -> None:
    try:
        torch.set_num_threads(threads)
        call = set_up()
        before = _lowered_mark()
        result = call()
        answer.send(high_water() - before)
        del result
    except Exception as error:  # the parent raises it
        answer.send(f"{type(error).__name__}: {error}")


def _lowered_mark() -> int:
    """The high-water mark, brought down to what is in memory now where the system allows it.

    Where it does not, a set-up that took more for a moment than it kept hides as much of the call.
    """
    try:
        RESET.write_text("5")
    except OSError:
        pass
    return high_water()


def high_water() -> int:
    """This process's high-water mark in bytes.

    From /proc where there is one: a child's `ru_maxrss` on Linux begins at what its *parent* had in memory.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith(PEAK):
                return 1024 * int(line.split()[1])
    import resource  # not on Windows, which is reached by neither way

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def free_bytes() -> int | None:
    """The memory that this process could still take, within its control group; None where the system does not say."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    except OSError:
        pass
    for most, used in LIMITS:
        try:
            found.append(int(Path(most).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
    return max(0, min(found)) if found else None
