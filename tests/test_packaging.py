"""What is installed: a wheel with four top-level names, and no library that would drag in others."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files inside a wheel built from the files that git would ship."""
    clean = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (clean / name).parent.mkdir(parents=True, exist_ok=True)
            (clean / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(clean)], check=True, capture_output=True
    )
    (built,) = out.glob("gradgauge-*.whl")
    return zipfile.ZipFile(built).namelist()


def test_a_wheel_has_the_four_top_level_names_and_no_other(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel if ".dist-info/" not in name}
    assert tops == {"diagnostics", "analyses", "figures", "cli.py"}


def test_a_wheel_holds_every_module_and_data_file(wheel: list[str]) -> None:
    wanted = [
        str(path.relative_to(ROOT))
        for layer in ("diagnostics", "analyses", "figures")
        for path in (ROOT / layer).rglob("*")
        if path.suffix in (".py", ".toml", ".jinja", ".mplstyle")
    ]
    assert len(wanted) > 40
    assert set(wanted) <= set(wheel)


def test_torch_is_pinned_and_torchvision_is_nowhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch>=2.10,<2.14" in project["dependencies"]
    assert project["requires-python"] == ">=3.11"
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout
    assert "torchvision" not in installed
