"""The golden run: what `smoke` gave is what this code gives, as closely as this machine can be asked to agree."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cli
from tests.golden import FOLDER, unpack


def check(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["check", str(folder), *arguments])


def test_a_sample_of_the_golden_run_is_reproduced(tmp_path: Path) -> None:
    """Three cells: CG and the parts of an error on the quadratic, and a rescaled regression."""
    done = check(unpack(tmp_path / "smoke"), "--sample", "3", "--sample-seed", "56")
    assert done.exit_code == 0, done.output
    assert "3 of 11 cells" in done.stdout and "reproduced at the level" in done.stdout


@pytest.mark.slow
def test_the_golden_run_is_reproduced(tmp_path: Path) -> None:
    done = check(unpack(tmp_path / "smoke"))
    assert done.exit_code == 0, done.output
    assert "11 of 11 cells" in done.stdout


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 300_000
