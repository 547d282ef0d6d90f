"""The layering: a layer imports itself and those below it, never above, and each keeps to its own libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {"diagnostics": set(), "analyses": {"diagnostics"}, "figures": {"analyses", "diagnostics"}}
FOREIGN = {
    "diagnostics": {"pandas", "matplotlib", "seaborn", "jinja2", "click", "pydantic", "sqlite3"},
    "analyses": {"matplotlib", "seaborn", "jinja2", "click"},
    "figures": {"torch", "click", "sqlite3", "pydantic"},
}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    froms = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), f"relative: {path}"
    return {name.partition(".")[0] for name in [*names, *froms]}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_itself_and_those_below(layer: str) -> None:
    allowed = LAYERS[layer] | {layer}
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        above = (imported(path) & {*LAYERS, "cli", "tests"}) - allowed
        assert not above, f"{path.relative_to(ROOT)} imports {above}"
        strange = imported(path) & FOREIGN[layer]
        assert not strange, f"{path.relative_to(ROOT)} imports {strange}"


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sorted(m.partition('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_starts_without_anything_heavy() -> None:
    assert not loaded("import cli") & {"torch", "numpy", "pandas", "matplotlib", "seaborn", "pydantic", "jinja2"}


def test_figures_never_load_torch() -> None:
    assert "torch" not in loaded("import figures.report; from figures.section import sections; sections.names()")
