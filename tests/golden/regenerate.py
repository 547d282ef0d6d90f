"""Measure the preset smoke and keep it as the golden run: `python -m tests.golden.regenerate`."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.golden import pack

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    with TemporaryDirectory() as elsewhere:
        command = [sys.executable, str(ROOT / "cli.py"), "report", "--preset", "smoke", "--out", "smoke"]
        subprocess.run(command, cwd=elsewhere, check=True)
        pack(Path(elsewhere) / "smoke")
