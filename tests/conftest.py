"""Settings of every test run: one thread, reproducible examples, and the worst ratios in the summary."""

from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.cases import WORST

settings.register_profile("reproducible", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("reproducible")


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
