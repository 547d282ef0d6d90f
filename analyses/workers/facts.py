"""What a worker must share with the driver for its digits to be the same: the code, the libraries, the arithmetic."""

import platform
from collections.abc import Mapping
from importlib import metadata

import torch

from analyses.analysis import measurements
from analyses.manifest import numerics, processor, source
from analyses.task import one_thread
from diagnostics.arithmetic.machine import PROBES

MAY_DIFFER = ("cpu capability", "processor")  # another kind of machine is allowed, and recorded


def facts() -> dict[str, str]:
    """Of this process, in this thread: the libraries' versions, the code's hash, and what can change a digit."""
    measurements.names()  # loads everything that measures, so that no cell's time has it in it
    with one_thread():
        found = {"python": platform.python_version(), "torch": torch.__version__, "numpy": metadata.version("numpy")}
        found |= {"gradgauge": metadata.version("gradgauge"), "gradgauge's source": source()["sha256"][:12]}
        found |= {name: str(value) for name, value in numerics().items()}
        found |= {probe.what: "yes" if probe.holds() else "no" for probe in PROBES}
    return found | {"processor": processor()}


def differences(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """What a worker has otherwise, of what must be the same, as `what: theirs, and here mine`."""
    return [
        f"{what}: {theirs.get(what, 'not told')}, and here {value}"
        for what, value in mine.items()
        if what not in MAY_DIFFER and theirs.get(what) != value
    ]
