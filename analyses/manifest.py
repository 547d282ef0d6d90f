"""What a run was: its settings, the code and the machine that it ran on, so that anyone can run it again."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from analyses.device import described
from analyses.settings import Settings, as_json, fingerprint
from diagnostics.data import glyphs
from diagnostics.data.library import GLYPHS, load, unspelled
from diagnostics.problem_names import parse

PACKAGES = (
    "torch", "numpy", "pandas", "matplotlib", "seaborn", "pillow", "fonttools", "pydantic", "jinja2", "click",
    "distributed", "pyarrow",
)  # fmt: skip
KERNELS = (  # variables by which one may choose other instructions, and so other digits
    "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip
SEEDING = (
    "numpy.random.SeedSequence(seed, spawn_key=(variable,)) for each variable of a problem, drawn in float64, task "
    "after task; no global generator is used"
)
FONT = "DejaVuSans.ttf"
ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("cli.py", "diagnostics", "analyses", "figures")


def manifest(settings: Settings, preset: str, begun: str, seconds: float, engine: dict[str, Any]) -> dict[str, Any]:
    """Everything that a reader needs to judge or repeat a run.

    `seconds` is the time that its cells took, `engine` what `analyses/engine.py` says of who measured them.
    """
    return {
        "gradgauge": metadata.version("gradgauge"),
        "command": command(),
        "preset": preset,
        "settings": as_json(settings),
        "settings sha256": fingerprint(as_json(settings)),
        "seeds": sorted({seed for table in settings.tables() for seed in table.seeds}),
        "seeds are used": SEEDING,
        "begun": begun,
        "ended": now(),
        "measuring seconds": round(seconds, 1),
        "engine": engine,
        "source": source(),
        "numerics": numerics(tuple(dict.fromkeys(table.device for table in settings.tables()))),
        "environment": {name: os.environ[name] for name in KERNELS if name in os.environ},
        "machine": machine(),
        "packages": packages(),
        "data": image_sets({name for table in settings.tables() for name in table.problems}),
        "fonts of figures": fonts(),
    }


def image_sets(problems: Iterable[str]) -> dict[str, Any]:
    """What tells the images of these problems from others: hashes of the glyphs, and the key of a set on disk.

    The key is made of the names, sizes and times of the files; `gradgauge data check` hashes the pixels.
    """
    found: dict[str, Any] = {}
    for name, parameters in sorted(map(parse, problems), key=str):
        if "few_shot" in name:
            path = unspelled(parameters.get("data", GLYPHS))
            on_disk = path != GLYPHS
            found[path] = load(path, parameters.get("partition", "")).source.key if on_disk else glyphs.manifest()
    return found


def numerics(devices: Sequence[str] = ("cpu",)) -> dict[str, Any]:
    """What can change a digit: threads, vector instructions, TF32, the default arithmetic, and where it is done."""
    return {
        "torch threads": torch.get_num_threads(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "cudnn tf32": torch.backends.cudnn.allow_tf32,
        "matmul tf32": torch.backends.cuda.matmul.allow_tf32,
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "default dtype": str(torch.get_default_dtype()),
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "flush denormals": bool(torch.tensor(1e-310, dtype=torch.float64) * 1.0 == 0),
        "device": ", ".join(described(name) for name in devices),
    }


def machine() -> dict[str, Any]:
    """The computer, without its name and its kernel, which no digit depends on; and what torch was built with."""
    built = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return {
        "system": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch built with": [line for line in built if line.startswith(("Intel(R)", "LAPACK", "OpenMP", "CUDA Run"))],
    }


def packages() -> dict[str, str]:
    """The versions of the libraries that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def fonts() -> dict[str, str]:
    """A hash of the font that figures are set in; theirs are the only bytes of a report that depend on one."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return {}
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / FONT
    return {FONT: sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}


def source() -> dict[str, Any]:
    """A hash over every source file of the instrument, and the commit where there is one."""
    digest = sha256()
    for name in SOURCES:
        path = ROOT / name
        for file in sorted([path] if path.is_file() else path.rglob("*")):
            if file.suffix in (".py", ".toml", ".jinja", ".mplstyle"):
                digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return {
        "sha256": digest.hexdigest(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command() -> str:
    """The command line, without the folder that the program lies in, and `~` for the user's own."""
    home = re.escape(str(Path.home()))
    return re.sub(rf"(?<![\w/.-]){home}(?=/|['\"\s]|$)", "~", shlex.join(["gradgauge", *sys.argv[1:]]))


def _git(*arguments: str) -> str | None:
    """What git says of the folder that this code lies in; None where that is no checkout, or there is no git."""
    if not (ROOT / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
