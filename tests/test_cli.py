"""The commands as a user types them: what they print, their exit codes, and what they leave behind."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

import cli

ROOT = Path(__file__).parent.parent
TINY = ("--problem", "quadratic", "--steps", "0,1,3", "--iterations", "1,2", "--tasks", "2", "--seed", "0",
        "--precision", "float32", "--reference-seconds", "0")  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_kind")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *words: str) -> None:
    """One line on stderr that holds every word; nothing on stdout, no traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert "Traceback" not in result.stderr
    assert len([line for line in lines if line.startswith("Error:")]) == 1, result.stderr
    for word in words:
        assert word in lines[-1]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("run.sqlite")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def every_kind(one_kind: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Figures in all kinds of files, as a user gets them."""
    monkeypatch.setattr("figures.report.KINDS", one_kind)
    return one_kind


def test_a_run_leaves_the_table_the_figure_and_the_page(every_kind: tuple[str, ...], tmp_path: Path) -> None:
    done = run("run", "steps", *TINY, "--out", tmp_path / "a run")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "a run" / "index.html")
    drawn = {f"figures/steps.{kind}" for kind in every_kind}
    assert len(drawn) == 3
    for name in {"index.html", "summary.md", "manifest.json", "run.sqlite", "tables/steps.csv"} | drawn:
        assert (tmp_path / "a run" / name).stat().st_size > 0
    table = pd.read_csv(tmp_path / "a run" / "tables" / "steps.csv")
    unrolled = table[(table.estimator == "unrolled") & (table.target == "unrolled")]
    assert sorted(unrolled.inner_steps) == [0, 0, 1, 1, 3, 3]
    assert (unrolled.relative_error < 1e-5).all()
    assert not [path for path in (tmp_path / "a run").rglob(".*")]


@pytest.mark.parametrize("analysis", ["rescaling", "digits"])
def test_a_run_that_asks_for_nothing_is_told_what_to_ask(analysis: str, tmp_path: Path) -> None:
    refused(
        run("run", analysis, "--problem", "logistic", "--out", tmp_path / "run"), 2,
        f"{analysis}: expected settings that ask for something", "--scaling none,standardize", "--traced float32",
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_the_inner_optimizer_is_chosen_by_name(tmp_path: Path) -> None:
    refused(
        run("run", "steps", *TINY, "--inner-optimizer", "adan"),
        2,
        "unknown inner optimizer 'adan'; did you mean 'adam'?",
    )
    assert run("run", "steps", *TINY, "--inner-optimizer", "gd", "--out", tmp_path / "run").exit_code == 0


def test_digits_are_traced_where_asked(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asked = ("--traced", "float32", "--out", folder)
    assert run("run", "digits", *TINY, *asked).exit_code == 0
    table = pd.read_csv(folder / "tables" / "digits.csv")
    assert sorted(table.loc[(table.estimator == "trace_state") & (table.task == 0), "inner_steps"]) == [0, 1, 2, 3]
    refused(run("run", "digits", *TINY, "--traced", "float64"), 2, "expected arithmetics coarser than float64")


def test_the_grid_is_measured_in_any_arithmetic(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asked = [*TINY[: TINY.index("--precision")], "--precision", "bfloat16,extended", "--reference-seconds", "60"]
    assert run("run", "steps", *asked, "--out", folder).exit_code == 0
    table = pd.read_csv(folder / "tables" / "steps.csv")
    unrolled = table[(table.estimator == "unrolled") & (table.target == "unrolled") & (table.inner_steps == 3)]
    worst = unrolled.groupby("precision").relative_error.max()
    assert set(unrolled.reference) == {"extended"}
    assert worst["extended"] < 1e-24 and 1e-4 < worst["bfloat16"] < 0.1


def test_a_run_of_the_same_settings_is_completed_and_of_others_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run("run", "steps", *TINY, "--out", folder).exit_code == 0
    before = contents(folder)
    again = run("run", "steps", *TINY, "--out", folder)
    assert again.exit_code == 0
    assert "[1/1]" not in again.stderr  # nothing was measured again
    after = contents(folder)
    assert {name: after[name] for name in after if name.startswith(("tables", "figures"))} == {
        name: before[name] for name in before if name.startswith(("tables", "figures"))
    }
    refused(run("run", "steps", *TINY, "--tasks", "3", "--out", folder), 2, "grids[0].tasks: 2 -> 3", "--out")
    assert contents(folder) == after


def test_figures_are_redrawn_byte_for_byte(every_kind: tuple[str, ...], tmp_path: Path) -> None:
    assert run("run", "cg", *TINY, "--out", tmp_path).exit_code == 0
    before = contents(tmp_path)
    for path in [*(tmp_path / "figures").iterdir(), tmp_path / "index.html"]:
        path.unlink()
    assert run("figures", tmp_path).exit_code == 0
    assert contents(tmp_path) == before


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Killed at a random moment, a run has what it had told of, and ends in the table of an undisturbed one."""
    from analyses.store import Store

    arguments = [*TINY, "--seed", "0,1,2,3,4,5,6,7"]
    whole, cut, after = tmp_path / "whole", tmp_path / "cut", random.randrange(1, 8)
    assert run("run", "steps", *arguments, "--out", whole).exit_code == 0
    command = [sys.executable, str(ROOT / "cli.py"), "run", "steps", *arguments, "--out", str(cut)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while f"[{after}/8]" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(random.uniform(0, 0.2))  # in the midst of a later cell, of a commit, or of the figures
        process.kill()
        told = after + sum(line.startswith("[") for line in process.stderr)
    kept = len(Store(cut / "run.sqlite").keys())
    assert told <= kept <= 8
    resumed = run("run", "steps", *arguments, "--out", cut)
    assert resumed.exit_code == 0
    measured = [line.partition("]")[0] for line in resumed.stderr.splitlines() if line.startswith("[")]
    assert measured == [f"[{number}/8" for number in range(kept + 1, 9)]
    assert contents(cut)["tables/steps.csv"] == contents(whole)["tables/steps.csv"]


def test_an_interrupt_ends_with_130_and_one_line(tmp_path: Path) -> None:
    many = ",".join(str(seed) for seed in range(200))
    command = [sys.executable, str(ROOT / "cli.py"), "run", "steps", *TINY, "--seed", many, "--out", str(tmp_path)]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background may not hear it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        assert process.stderr is not None
        while "[1/200]" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "interrupted; the same command goes on from here"
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "stepz"], ["unknown analysis 'stepz'", "did you mean 'steps'?"]),
        (["run", "steps", "--problem", "sinusoids"], ["unknown problem 'sinusoids'", "did you mean 'sinusoid'?"]),
        (["run", "steps", "--problem", "sinusoid[activations=relu]"], ["did you mean 'activation'?"]),
        (["run", "steps", "--problem", "sinusoid[shots=many]"], ["expected shots to be a whole number", "'many'"]),
        (["run", "steps", "--problem", "quadratic[dimension=2,dimension=3]"], ["expected each parameter once"]),
        (["run", "steps", "--problem", "quadratic[condition=inf]"], ["condition", "finite number >= 1", "inf"]),
        (["run", "steps", "--problem", "quadratic[strength=nan]"], ["strength", "finite number >= 0", "nan"]),
        (["run", "steps", "--problem", "sinus\udcffoid"], ["expected text in UTF-8", "sinus\\udcffoid"]),
        (["run", "steps", "--problem", "sinusoid["], ["expected a name or name[parameter=value,...]"]),
        (["run", "steps", "--problem", "sinusoid[activation=gelu]"], ["expected one of", "relu", "'gelu'"]),
        (["run", "steps", "--precision", "float16x"], ["unknown precision 'float16x'", "float32"]),
        (["run", "steps", "--preset", "quik"], ["unknown preset 'quik'", "did you mean 'quick'?"]),
        (["run", "steps", "--tasks", "0"], ["tasks", "greater than or equal to 1", "found 0"]),
        (["run", "steps", "--steps", "5,-1"], ["steps", "greater than or equal to 0", "found -1"]),
        (["run", "steps", "--inner-lr", "-0.1"], ["inner_lr", "greater than 0"]),
        (["run", "steps", "--inner-lr", "nan"], ["inner_lr"]),
        (["run", "cg", "--strength", "0"], ["strength: expected > 0", "implicit"]),
        (["run", "cg", "--strength", "-1"], ["strength", "greater than or equal to 0"]),
        (["run", "precision", "--precision", "float61"], ["unknown precision 'float61'", "did you mean 'float64'?"]),
        (["run", "precision", "--precision", "bfloat"], ["unknown precision 'bfloat'", "did you mean 'bfloat16'?"]),
        (["run", "rescaling", "--scaling", "standardise"], ["unknown rescaling", "did you mean 'standardize'?"]),
        (["run", "rescaling", "--scaling", "scale:-1"], ["expected scale:<factor>", "found 'scale:-1'"]),
        (["run", "rescaling", "--scaling", "none,whitten"], ["unknown rescaling 'whitten'", "did you mean 'whiten'?"]),
        (["run", "steps", "--reference-seconds", "-1"], ["reference_seconds", "greater than or equal to 0"]),
        (["run", "precision", "--reference-seconds", "nan"], ["reference_seconds"]),
        (["run", "precission"], ["unknown analysis 'precission'", "did you mean 'precision'?"]),
        (["list", "solver"], ["unknown kind 'solver'", "did you mean 'solvers'?"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    arguments: Sequence[str], words: Sequence[str], tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "run" else []
    refused(run(*arguments, *out), 2, *words)
    assert not list(tmp_path.iterdir())


def test_what_click_refuses_has_its_exit_code_too() -> None:
    assert run("run", "steps", "--tasks", "two").exit_code == 2
    assert run("run", "steps", "--steps", "1,two").exit_code == 2
    assert run("reprot").exit_code == 2


def test_an_unwritable_folder_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(run("run", "steps", *TINY, "--out", tmp_path / "file" / "run"), 2, str(tmp_path / "file"), "--out")
    refused(run("run", "steps", *TINY, "--out", "/proc/run"), 2, "/proc/run", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_whose_store_is_no_store_is_refused_with_code_3(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").write_text("not a database, but a file of some length" * 50)
    refused(run("run", "steps", *TINY, "--out", tmp_path), 3, "expected a gradgauge store")


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [(b"steps = [", 3, "expected TOML settings"), (b"\xff\xfe\x00", 3, "expected TOML settings"),
     (b"a = " + b"[" * 100_000, 3, "expected TOML settings"), (b"stepps = [1]", 2, "did you mean 'steps'?"),
     (b"grid = 3", 2, "[[grid]]"), (b"tasks = 'many'", 2, "tasks"), (b"[[grid]]\nproblems = []", 2, "problems")],
)  # fmt: skip
def test_a_settings_file_that_is_wrong(content: bytes, code: int, word: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_bytes(content)
    refused(run("run", "steps", "--config", tmp_path / "settings.toml", "--out", tmp_path / "run"), code, word)
    assert not (tmp_path / "run").exists()


def test_a_settings_file_that_is_not_there(tmp_path: Path) -> None:
    refused(run("run", "steps", "--config", tmp_path / "no.toml"), 3, "nothing there")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_figures_of_what_is_no_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(run("figures", tmp_path / name), 3, "expected a finished run")


def test_divergence_is_a_row_with_its_step_and_not_a_failure(tmp_path: Path) -> None:
    done = run("run", "steps", *TINY, "--steps", "5,400", "--inner-lr", "30", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "tables" / "steps.csv")
    end = table[(table.estimator == "unrolled") & (table.inner_steps == 400)]
    assert (end.outcome == "diverged").all()
    assert end.outcome_step.between(1, 400).all()
    early = table[(table.estimator == "unrolled") & (table.inner_steps == 5)]
    assert (early[early.target == "unrolled"].outcome == "ok").all()
    assert (early[early.target == "stationary"].outcome == "no minimiser").all()
    measured = table[table.outcome == "ok"]
    assert measured[["relative_error", "cosine", "norm_ratio"]].notna().all().all()  # no number, no `ok`


def test_without_a_proximal_term_steps_shows_what_there_is(tmp_path: Path) -> None:
    assert run("run", "steps", *TINY, "--strength", "0", "--out", tmp_path).exit_code == 0
    table = pd.read_csv(tmp_path / "tables" / "steps.csv")
    assert set(table.estimator) == {"unrolled", "unrolled_adjoint", "first_order"}
    assert set(table.target) == {"unrolled"}
    assert table.relative_error.notna().all()


def test_a_cell_that_fails_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analyses.analysis import measurements

    measure = measurements["grid"]

    def broken(spec):  # noqa: ANN001, ANN202
        if spec["seed"] == 1:
            raise RuntimeError("out of order\nwith a second line")
        return measure(spec)

    monkeypatch.setitem(measurements.entries, "grid", broken)
    done = run("run", "steps", *TINY, "--seed", "0,1,2", "--out", tmp_path)
    assert done.exit_code == 4
    assert "failed: quadratic, float32, seed 1: RuntimeError: out of order" in done.stderr
    assert set(pd.read_csv(tmp_path / "tables" / "steps.csv").seed) == {0, 2}
    monkeypatch.undo()
    assert run("run", "steps", *TINY, "--seed", "0,1,2", "--out", tmp_path).exit_code == 0
    assert set(pd.read_csv(tmp_path / "tables" / "steps.csv").seed) == {0, 1, 2}


def test_list_names_everything_that_is_registered() -> None:
    listed = run("list").stdout
    for name in ("steps", "surface", "sinusoid(", "few_shot(", "unrolled_adjoint", "cg", "gd", "float64", "smoke"):
        assert name in listed
    for name in (*cli.ANALYSES, "bfloat16_pure", "extended", "power_of_two", "scale:<factor>"):
        assert f"  {name}\n" in listed
    assert "first_order" not in run("list", "solvers").stdout


def test_doctor_finds_this_machine_well() -> None:
    done = run("doctor")
    assert done.exit_code == 0, done.stdout
    assert "denormals kept: yes" in done.stdout


def test_doctor_finds_flushed_denormals() -> None:
    code = "import torch; torch.set_flush_denormal(True); import cli; cli.main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BAD  denormals kept: no" in done.stdout
    assert "set_flush_denormal(False)" in done.stdout


@pytest.fixture
def flushed() -> Iterator[None]:
    """Flush-to-zero, as another library in the process may have switched it on."""
    assert torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("command", [["run", "steps"], ["run", "precision"], ["report"]], ids=" ".join)
def test_a_run_with_flushed_denormals_is_refused(command: list[str], flushed: None, tmp_path: Path) -> None:
    done = run(*command, *TINY, "--out", tmp_path / "run")
    refused(done, 1, "expected denormals kept", "torch.set_flush_denormal(False)", "`gradgauge doctor` tells more")
    assert not list(tmp_path.iterdir())


def test_a_run_whose_arithmetic_fails_another_probe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diagnostics.arithmetic import machine

    probes = [replace(probe, holds=lambda: False) for probe in machine.PROBES if "exact errors" in probe.what]
    monkeypatch.setattr(machine, "PROBES", probes)
    refused(run("run", "steps", *TINY, "--out", tmp_path / "run"), 1, "expected sums and products", "doctor")


def test_doctor_names_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch without support for a device refuses any number on it, and so stands for one that has no float64."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("mps"))
    done = run("doctor")
    assert done.exit_code == 1
    assert "BAD  accelerator: mps\n" in done.stdout
    assert "expected a device with float64, found mps" in done.stdout and "move the problem to the CPU" in done.stdout


def test_scalings_and_the_time_for_references_reach_the_measurements(tmp_path: Path) -> None:
    options = [*TINY, "--steps", "1,3", "--scaling", "none,power_of_two"]
    for seconds, reference in (("0", "float64"), ("1e9", "extended")):
        folder = tmp_path / reference
        done = run("run", "rescaling", *options, "--reference-seconds", seconds, "--out", folder)
        assert done.exit_code == 0, done.output
        table = pd.read_csv(folder / "tables" / "rescaling.csv")
        assert set(table.scaling) == {"none", "power_of_two"}
        measured = table[(table.target == "exact_arithmetic") & (table.outcome != "prediction")]
        assert set(measured.reference) == {reference}
        assert measured.reference_uncertainty.notna().all()


def test_data_beyond_an_arithmetics_range_fail_in_one_line_and_spare_the_rest(tmp_path: Path) -> None:
    few = ["--problem", "linear_regression", "--steps", "1", "--iterations", "1", "--tasks", "2", "--seed", "0"]
    options = [*few, "--precision", "float16,float32", "--reference-seconds", "0", "--scaling", "none,scale:1e6"]
    done = run("run", "rescaling", *options, "--out", tmp_path)
    assert done.exit_code == 4
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed")]
    assert len(failed) == 1 and "Traceback" not in done.stderr
    assert failed[0].startswith("failed: linear_regression, scale:1e6, seed 0: ValueError: float16: expected numbers ")
    assert "use the rescaling power_of_two" in failed[0]
    assert set(pd.read_csv(tmp_path / "tables" / "rescaling.csv").scaling) == {"none"}


def test_the_analyses_of_the_command_line_are_those_that_are_registered() -> None:
    from analyses.analysis import analyses

    assert sorted((*cli.ANALYSES, *cli.ALONE)) == sorted(analyses.names()) and len(cli.ANALYSES) == 9


def test_nothing_is_warned_of_in_a_normal_run(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "cli.py"), "report", *TINY, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stdout + done.stderr


def test_help_waits_for_nothing_heavy() -> None:
    """The time is a fact about the machine, so the bound is loose; `test_layers` holds the cause."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, str(ROOT / "cli.py"), "--help"], capture_output=True, check=True)
    assert b"report" in done.stdout
    assert time.perf_counter() - begun < 3
