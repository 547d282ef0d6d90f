"""The README's code runs, its commands exist, and its pictures are there."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_there_is_code_to_run() -> None:
    assert BLOCKS


def test_every_command_that_it_names_exists() -> None:
    named = set(re.findall(r"`gradgauge ([a-z]+)", TEXT))
    assert named
    for name in named:
        assert CliRunner().invoke(cli.main, [name, "--help"]).exit_code == 0, name


def test_every_make_target_that_it_names_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, flags=re.MULTILINE)) <= set(targets)


def test_every_file_that_it_points_to_is_there() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / path).exists(), path
