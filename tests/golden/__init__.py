"""A run of the preset smoke, kept: its manifest, and its tables compressed.

`python -m tests.golden.regenerate` measures it again, after a change that is meant to change digits.
"""

import lzma
from pathlib import Path

FOLDER = Path(__file__).parent / "smoke"


def unpack(folder: Path) -> Path:
    """The golden run as a run folder."""
    (folder / "tables").mkdir(parents=True)
    (folder / "manifest.json").write_bytes((FOLDER / "manifest.json").read_bytes())
    for path in sorted((FOLDER / "tables").glob("*.csv.xz")):
        (folder / "tables" / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
    return folder


def pack(run: Path) -> None:
    """Put a run in the golden one's place."""
    (FOLDER / "tables").mkdir(parents=True, exist_ok=True)
    for path in (FOLDER / "tables").iterdir():
        path.unlink()
    (FOLDER / "manifest.json").write_bytes((run / "manifest.json").read_bytes())
    for path in sorted((run / "tables").glob("*.csv")):
        (FOLDER / "tables" / f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))
