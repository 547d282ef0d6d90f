"""Settings of every test run: one thread, reproducible examples, and the worst ratios in the summary."""

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The worst ratio of each family of checks, so that a slow drift is seen before the limit is met."""
    if WORST:
        terminalreporter.section("worst ratios of error to eps * condition * scale")
    for family, (ratio, where) in sorted(WORST.items()):
        terminalreporter.write_line(f"{ratio:9.3g}  {family}  ({where})")
