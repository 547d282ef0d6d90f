"""The code of the README and of the other documents runs, their commands exist, and their pictures are there."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/arithmetic.md", "docs/protocols.md", "docs/reproduce.md")
TEXTS = {name: (ROOT / name).read_text() for name in DOCUMENTS}
TEXT = "\n".join(TEXTS.values())
BLOCKS = {name: re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) for name, text in TEXTS.items()}


@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks])
def test_the_code_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of a document follow one another."""
    names: dict[str, object] = {}
    for number, block in enumerate(BLOCKS[name]):
        exec(compile(block, f"{name}, block {number}", "exec"), names)
        assert capsys.readouterr().out.strip()


def test_there_is_code_to_run() -> None:
    assert BLOCKS["README.md"]


def test_every_command_that_it_names_exists() -> None:
    named = set(re.findall(r"`gradgauge ([a-z]+)", TEXT))
    assert named
    for name in named:
        assert CliRunner().invoke(cli.main, [name, "--help"]).exit_code == 0, name


def test_every_make_target_that_it_names_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, flags=re.MULTILINE)) <= set(targets)


def test_every_file_that_it_points_to_is_there() -> None:
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    for path in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path
