"""What a run was: its settings, the code and the machine that it ran on, so that anyone can run it again."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from analyses.settings import Settings, as_json
from diagnostics.data import glyphs

PACKAGES = ("torch", "numpy", "pandas", "matplotlib", "seaborn", "pillow", "fonttools", "pydantic", "jinja2", "click")
ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("cli.py", "diagnostics", "analyses", "figures")


def manifest(settings: Settings, preset: str, begun: str, seconds: float) -> dict[str, Any]:
    """Everything that a reader needs to judge or repeat a run; `seconds` is the time that its cells took."""
    images = any(name.startswith("few_shot") for table in settings.tables() for name in table.problems)
    return {
        "gradgauge": metadata.version("gradgauge"),
        "command": command(),
        "preset": preset,
        "settings": as_json(settings),
        "begun": begun,
        "ended": now(),
        "measuring seconds": round(seconds, 1),
        "source": source(),
        "numerics": numerics(),
        "machine": {"system": platform.platform(), "processor": processor(), "python": platform.python_version()},
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "data": {"glyphs": glyphs.manifest()} if images else {},
    }


def numerics() -> dict[str, Any]:
    """What can change a digit: threads, vector instructions, TF32 and the default arithmetic."""
    return {
        "torch threads": torch.get_num_threads(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "cudnn tf32": torch.backends.cudnn.allow_tf32,
        "matmul tf32": torch.backends.cuda.matmul.allow_tf32,
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "default dtype": str(torch.get_default_dtype()),
        "flush denormals": bool(torch.tensor(1e-310, dtype=torch.float64) * 1.0 == 0),
        "device": "cpu",
    }


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
    """The command line, without the folder that the program lies in."""
    return " ".join(["gradgauge", *sys.argv[1:]])


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
