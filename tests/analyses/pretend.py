"""A measurement for tests and benchmarks of the engine: it sleeps, raises, or kills the process that it is in.

Workers know it when dask is told to load this module in them: `distributed.worker.preload`.
"""

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from analyses.analysis import Cell, Rows, measurements

MODULE = "tests.analyses.pretend"


@measurements.register("pretend")
def measure(spec: Mapping[str, Any]) -> Rows:
    """One row, after `seconds`; `then` is what is done instead: `raise`, `exit`, or `kill` its process."""
    time.sleep(spec.get("seconds", 0.0))
    match spec.get("then", "answer"):
        case "raise":
            raise RuntimeError("out of order\nwith a second line")
        case "exit":
            raise SystemExit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill once":
            try:
                os.close(os.open(spec["mark"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
    return [
        {"problem": "pretend", "task": 0, "seed": spec["seed"], "relative_error": spec["seed"] / 7, "outcome": "ok"}
    ]


def cells(count: int, **spec: Any) -> list[Cell]:
    """Cells that differ in their seeds."""
    return [Cell("pretend", {"seed": seed, **spec}) for seed in range(count)]
