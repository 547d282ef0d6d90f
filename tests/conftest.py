"""Settings of every test run: one thread, reproducible examples, and the worst ratios in the summary."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.cases import WORST

settings.register_profile("reproducible", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("reproducible")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Neighbouring tests in one process, which share what a module's fixtures and caches hold; the last are shared out.

    The usual way deals tests out in turn, so that each process makes all of that for itself.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(scope="module")
def one_kind() -> Iterator[tuple[str, ...]]:
    """Runs draw their figures as the page shows them, and in no other kind of file, which is most of drawing.

    Gives the kinds that they would draw.
    """
    from figures import report

    usual = report.KINDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "KINDS", ("svg",))
        yield usual


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small problems are faster on one thread, and the order of a sum does not then depend on the machine."""
    torch.set_num_threads(1)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes hands its worst ratios to the one that prints the summary."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["worst ratios"] = list(WORST.items())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The worst ratios of a process that is done; NaN is worse than any number."""
    for family, (ratio, where) in getattr(node, "workeroutput", {}).get("worst ratios", []):
        if not ratio <= WORST.get(family, (-1.0, ""))[0]:
            WORST[family] = (ratio, where)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The worst ratio of each family of checks, so that a slow drift is seen before the limit is met."""
    if WORST:
        terminalreporter.section("worst ratios of error to eps * condition * scale")
    for family, (ratio, where) in sorted(WORST.items()):
        terminalreporter.write_line(f"{ratio:9.3g}  {family}  ({where})")
