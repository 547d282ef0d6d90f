"""The command line: parse, call, print."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:  # the imports that take seconds are made inside the commands, so that --help does not wait for them
    from analyses.run import Progress

NOTHING = "`rescaling` needs --scaling, as in --scaling none,standardize, and `digits` --traced, as in --traced float32"
ANALYSES = ("steps", "cg", "surface", "curvature", "precision", "rescaling", "digits", "budget", "cost")


def refuse(message: str, exit_code: int = 2) -> NoReturn:
    """End the command with one line on stderr."""
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(exit_code)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with what a user can cause turned into one line: 2 for usage, 3 for input that cannot be read.

    1 says that this machine's arithmetic failed a check.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            from analyses.settings import Unreadable
            from analyses.store import Unusable
            from diagnostics.arithmetic.machine import Unfit

            if isinstance(error, Unfit):
                refuse(f"{error}; `gradgauge doctor` tells more", 1)
            if isinstance(error, RuntimeError):
                raise
            if isinstance(error, OSError):
                named = f"{error.filename}: " if error.filename else ""
                refuse(f"{named}{error.strerror or error}; choose another folder with --out")
            refuse(str(error), 3 if isinstance(error, Unreadable | Unusable) else 2)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command goes on from here", err=True)
            sys.exit(130)

    return run


def whole_numbers(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """`1,2,5` as numbers."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected whole numbers with commas between them, found {value!r}") from None


def names(_: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """`float32,float64` as names."""
    return None if value is None else tuple(part.strip() for part in value.split(","))


def grid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is measured; each replaces the preset's entry in every grid."""
    options = (
        click.option("--problem", "problems", multiple=True, metavar="NAME", help="Problem, with parameters as in "
                     "'sinusoid[activation=relu]'; may be given several times. See `gradgauge list problems`."),
        click.option("--steps", callback=whole_numbers, metavar="1,2,5,..", help="Numbers of inner steps."),
        click.option("--iterations", callback=whole_numbers, metavar="1,2,5,..", help="CG iterations."),
        click.option("--tasks", type=int, help="Tasks per seed."),
        click.option("--seed", "seeds", callback=whole_numbers, metavar="0,1,..", help="Seeds."),
        click.option("--precision", "precisions", callback=names, metavar="NAMES", help="Arithmetics, as "
                     "float32,float64. See `gradgauge list precisions`."),
        click.option("--scaling", "scalings", callback=names, metavar="NAMES", help="Rescalings of the data, as "
                     "none,standardize,scale:1000. See `gradgauge list rescalings`."),
        click.option("--traced", callback=names, metavar="NAMES", help="Arithmetics in which the analysis `digits` "
                     "looks for each inner step's own error, as float32."),
        click.option("--reference-seconds", type=float, help="Estimated time that a reference in extended precision "
                     "may take; beyond it is float64's."),
        click.option("--inner-optimizer", metavar="NAME", help="Inner optimizer. See `gradgauge list optimizers`."),
        click.option("--inner-lr", type=float, help="Size of an inner step, in place of the problem's own."),
        click.option("--strength", type=float, help="Strength of the proximal term, in place of the problem's own."),
        click.option("--compile", "compiled", is_flag=True, default=None, help="Send the loops' steps through "
                     "torch.compile: faster after the first half minute, and other last bits. Needs a C++ compiler."),
        click.option("--chunk", type=int, help="Tasks at a time; 0, the default, for as many as fit in memory."),
        click.option("--preset", default="quick", show_default=True, help="smoke, quick or full."),
        click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Settings file."),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder; one of the same "
                     "settings is completed.  [default: reports/PRESET-HASH]"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gradgauge")
def main() -> None:
    """Tell whether a meta-gradient is right, how wrong, why, and what it costs."""


@main.command()
@grid_options
@guarded
def report(**options: Any) -> None:
    """Answer every question that the instrument can: all analyses, their figures and one page."""
    _measure(ANALYSES, **options)


@main.command()
@click.argument("analysis")
@grid_options
@guarded
def run(analysis: str, **options: Any) -> None:
    """Run one ANALYSIS; `gradgauge list analyses` tells which there are."""
    from diagnostics.registry import unknown

    if analysis not in ANALYSES:
        refuse(unknown("analysis", analysis, ANALYSES))
    _measure((analysis,), **options)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@guarded
def figures(folder: Path) -> None:
    """Redraw the figures and the page of the folder RUN from its tables."""
    import json

    from analyses.run import read_tables
    from analyses.settings import Unreadable
    from figures.report import write_report

    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        tables = read_tables(folder)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{folder}: expected a finished run (manifest.json, tables/*.csv), found {error}") from None
    click.echo(write_report(folder, tables, manifest))


@main.command("list")
@click.argument("kind", required=False)
@guarded
def list_(kind: str | None) -> None:
    """List what is registered: analyses, problems, estimators, solvers, optimizers, precisions, rescalings, presets."""
    import inspect

    from analyses.analysis import analyses
    from analyses.settings import presets
    from analyses.table import COLUMNS
    from diagnostics.arithmetic.precision import PRECISIONS
    from diagnostics.arithmetic.rescaling import RESCALINGS
    from diagnostics.inner import optimizers
    from diagnostics.meta_gradient import estimators
    from diagnostics.problem_names import problems
    from diagnostics.registry import unknown
    from diagnostics.solvers import solvers

    def first_line(entry: Any) -> str:
        return (inspect.getdoc(entry) or "").partition("\n\n")[0].replace("\n", " ")

    kinds: dict[str, dict[str, str]] = {
        "analyses": {name: f"{', '.join(analyses[name].questions)}: {analyses[name].about}"
                     for name in analyses.names()},
        "problems": {f"{name}{inspect.signature(problems[name])}".partition(" ->")[0]: first_line(problems[name])
                     for name in problems.names()},
        "estimators": {name: first_line(estimators[name]) for name in estimators.names()},
        "solvers": {name: first_line(solvers[name]) for name in solvers.names()},
        "optimizers": {name: first_line(optimizers[name]) for name in optimizers.names()},
        "precisions": {name: f"machine epsilon {p.eps:.3g}, smallest normal number {p.tiny:.3g}"
                       for name, p in PRECISIONS.items()},
        "rescalings": dict.fromkeys(RESCALINGS, ""),
        "presets": dict.fromkeys(presets(), ""),
        "columns": COLUMNS,
    }  # fmt: skip
    if kind is not None and kind not in kinds:
        refuse(unknown("kind", kind, tuple(kinds)))
    for title in [kind] if kind else [name for name in kinds if name != "columns"]:
        click.echo(f"{title}:")
        for name, about in kinds[title].items():
            click.echo(f"  {name}" + (f"\n      {about}" if about else ""))


@main.command()
@guarded
def doctor() -> None:
    """Tell what this machine's arithmetic does: threads, TF32, denormals, fused multiply-add."""
    from analyses.doctor import findings

    found = findings()
    for finding in found:
        click.echo(f"{'ok ' if finding.good else 'BAD'}  {finding.what}: {finding.value}")
        if not finding.good:
            click.echo(f"     {finding.advice}")
    if not all(finding.good for finding in found):
        sys.exit(1)


def _measure(
    analyses: tuple[str, ...],
    preset: str,
    config: Path | None,
    out: Path | None,
    problems: tuple[str, ...],
    **flags: Any,
) -> None:
    from analyses.settings import read_file, resolve

    settings = resolve(analyses, preset, read_file(config) if config else {}, flags, problems)

    import torch

    from analyses import manifest, run
    from diagnostics.arithmetic.machine import require_fit
    from figures.report import answers, write_report

    torch.set_num_threads(
        1
    )  # small models run no slower on one thread, and the digits do not depend on the machine's cores
    cells = run.cells_of(settings)
    if not cells:
        refuse(f"{', '.join(analyses)}: expected settings that ask for something, found nothing to measure; {NOTHING}")
    folder = out or Path("reports") / run.run_name(preset, settings)
    store = run.open_run(folder, settings)
    begun = manifest.now()
    click.echo(f"{len(cells)} cells into {folder}", err=True)
    require_fit()
    failed = run.measure_all(settings, store, _bar() if sys.stderr.isatty() else _line)
    tables = dict(run.tables(settings, store))
    facts = manifest.manifest(settings, preset, begun, store.seconds())
    run.write_tables(folder, tables)
    run.write_manifest(folder, facts)
    page = write_report(folder, tables, facts)
    for line in answers(tables):
        click.echo(line)
    click.echo(page)
    for failure in failed:
        click.echo(f"failed: {_what(failure.cell.spec)}: {failure.reason}", err=True)
    if failed:
        sys.exit(4)


def _what(spec: Any) -> str:
    known = [str(spec[key]) for key in ("problem", "precision", "scaling") if spec.get(key, "none") != "none"]
    return ", ".join(known) + f", seed {spec.get('seed')}"


def _line(progress: Progress) -> None:
    click.echo(f"[{progress.done}/{progress.total}] {_what(progress.cell.spec)}: {progress.seconds:.1f} s", err=True)


def _bar() -> Callable[[Progress], None]:
    """One line on the terminal, rewritten after each cell, with the time that is left."""
    begun, first = time.monotonic(), None

    def show(progress: Progress) -> None:
        nonlocal first
        first = progress.done if first is None else first
        each = (time.monotonic() - begun) / (progress.done - first + 1)
        left = each * (progress.total - progress.done)
        filled = 30 * progress.done // progress.total
        line = f"[{'#' * filled}{'.' * (30 - filled)}] {progress.done}/{progress.total}, about {left:.0f} s left"
        click.echo(f"\r{line}  {_what(progress.cell.spec):<60.60}", err=True, nl=progress.done == progress.total)

    return show


if __name__ == "__main__":
    main()
