"""The command line: parse, call, print."""

from __future__ import annotations

import errno
import functools
import io
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:  # the imports that take seconds are made inside the commands, so that --help does not wait for them
    from analyses.run import Progress

NOTHING = (
    "`rescaling` needs --scaling, as in --scaling none,standardize, `digits` --traced, as in --traced float32, and "
    "`training` and `generalized` tables [[training]] and [[generalized]], as in --config FILE.toml"
)
ANALYSES = ("steps", "cg", "surface", "curvature", "precision", "rescaling", "digits", "budget", "cost")
ALONE = ("training", "generalized")  # analyses that are run by their name only: `report` does not wait for them


def refuse(message: str, exit_code: int = 2) -> NoReturn:
    """End the command with one line on stderr."""
    note(f"Error: {' '.join(message.split())}")
    sys.exit(exit_code)


def note(line: str, *, end: bool = True) -> None:
    """One line on stderr; where nobody reads it the run goes on all the same."""
    try:
        click.echo(line, err=True, nl=end)
    except OSError:
        _close(sys.stderr)


def say(lines: Iterable[object], kept: Path) -> None:
    """The answers on stdout; where that takes none, a line on stderr tells in which file they are."""
    try:
        for line in lines:
            click.echo(line)
    except OSError as error:
        _close(sys.stdout)
        note(f"stdout: expected it to take the answers, found {error.strerror}; they are in {kept}")


def _close(stream: Any) -> None:
    """Let what is still written to a broken stream vanish, so that the end of the process finds nothing to complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with what a user can cause turned into one line: 2 for usage, 3 for input that cannot be read.

    1 says that this machine's arithmetic failed a check, 4 that the store takes no more cells, or that no
    worker is left to measure them.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            from analyses.engine import NoWorkers
            from analyses.settings import Unreadable
            from analyses.store import Unusable, Unwritable
            from diagnostics.arithmetic.machine import Unfit
            from diagnostics.data.bad_data import BadData
            from diagnostics.training.checkpoint import BadCheckpoint

            if isinstance(error, Unfit):
                refuse(f"{error}; `gradgauge doctor` tells more", 1)
            if isinstance(error, NoWorkers):
                refuse(str(error), 4)
            if isinstance(error, RuntimeError):
                raise
            if isinstance(error, OSError):
                named = f"{error.filename}: " if error.filename else ""
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    refuse(f"{named}{error.strerror}; make room and give the same command again", 4)
                refuse(f"{named}{error.strerror or error}; choose another folder with --out")
            if isinstance(error, Unwritable):
                refuse(str(error), 4)
            refuse(str(error), 3 if isinstance(error, Unreadable | Unusable | BadData | BadCheckpoint) else 2)
        except KeyboardInterrupt:
            note("interrupted; the same command goes on from here")
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
        click.option("--device", metavar="cpu|cuda|cuda:N", help="Where tensors are computed; the numbers that they "
                     "begin with are the same everywhere.  [default: cpu]"),
        click.option("--compile", "compiled", is_flag=True, default=None, help="Send the loops' steps through "
                     "torch.compile: faster after the first half minute, and other last bits. Needs a C++ compiler."),
        click.option("--chunk", type=int, help="Tasks at a time; 0, the default, for as many as fit in memory."),
        click.option("--preset", default="quick", show_default=True, help="smoke, quick or full."),
        click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Settings file."),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder; one of the same "
                     "settings is completed.  [default: reports/PRESET-HASH]"),
        click.option("--dry-run", is_flag=True, help="Tell what would be measured, what is done, and the time and "
                     "memory that it is estimated to take; measure and write nothing."),
        click.option("--yes", is_flag=True, help="Run more than 1000 cells, or cells that take more than 24 hours at "
                     "the least. No preset needs it, full neither."),
        click.option("--parquet", is_flag=True, help="Write the tables as Parquet too. Needs gradgauge[parquet]."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


ENGINE = ("engine", "workers", "cluster", "tls_ca", "tls_cert", "tls_key", "wait_for_workers", "retry_killed")


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say who measures, given to the command as one dictionary, `who`."""
    file = click.Path(path_type=Path)
    options = (
        click.option("--engine", metavar="inline|local", help="Measure in this process, or in processes beside it. "
                     "[default: inline; local with several workers]"),
        click.option("--workers", type=int, metavar="N", help="Processes of the engine local.  [default: one a core]"),
        click.option("--cluster", metavar="ADDRESS|FILE", help="Measure by the workers of a dask scheduler, as "
                     "tcp://HOST:PORT, or by the file that it writes. See docs/engine.md."),
        click.option("--tls-ca", type=file, metavar="FILE", help="Certificate of the cluster's authority."),
        click.option("--tls-cert", type=file, metavar="FILE", help="Certificate of this client."),
        click.option("--tls-key", type=file, metavar="FILE", help="Key of this client."),
        click.option("--wait-for-workers", type=float, default=60.0, show_default=True, metavar="SECONDS",
                     help="End the run when no worker has been alive for so long."),
        click.option("--retry-killed", is_flag=True, help="Measure again what was given up since its workers died."),
    )  # fmt: skip

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        return command(who={name: given.pop(name) for name in ENGINE}, **given)

    for option in reversed(options):
        run = option(run)
    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gradgauge")
def main() -> None:
    """Tell whether a meta-gradient is right, how wrong, why, and what it costs."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale without some character must not end a run
            stream.reconfigure(errors="backslashreplace")


@main.command()
@grid_options
@engine_options
@guarded
def report(**options: Any) -> None:
    """Answer every question that the instrument can: all analyses, their figures and one page."""
    _measure(ANALYSES, **options)


@main.command()
@click.argument("analysis")
@grid_options
@engine_options
@guarded
def run(analysis: str, **options: Any) -> None:
    """Run one ANALYSIS; `gradgauge list analyses` tells which there are."""
    from diagnostics.registry import unknown

    if analysis not in (*ANALYSES, *ALONE):
        refuse(unknown("analysis", analysis, (*ANALYSES, *ALONE)))
    _measure((analysis,), **options)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@guarded
def figures(folder: Path) -> None:
    """Redraw the figures and the page of the folder RUN from its tables."""
    import json

    from analyses.folder import read_tables
    from analyses.settings import Unreadable
    from figures.report import write_report

    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        tables = read_tables(folder)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{folder}: expected a finished run (manifest.json, tables/*.csv), found {error}") from None
    click.echo(write_report(folder, tables, manifest))


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--sample", type=int, metavar="N", help="Measure about N of the cells again.  [default: all]")
@click.option("--sample-seed", type=int, default=0, show_default=True, help="Seed that the sample is drawn with.")
@click.option("--level", metavar="bitwise|numeric|statistical", help="How closely to compare; statistical measures "
              "other seeds.  [default: the closest that fits this machine]")  # fmt: skip
@click.option("--workers", type=int, metavar="N", help="Processes that measure.  [default: this one]")
@guarded
def check(folder: Path, sample: int | None, sample_seed: int, level: str | None, workers: int | None) -> None:
    """Measure the cells of the folder RUN again and compare with its tables; see docs/reproduce.md.

    Nothing is written into RUN. Exit code 1 where anything is outside what the level allows, 4 where a cell failed.
    """
    import torch

    from analyses import check as again
    from analyses import manifest
    from analyses.device import require_device
    from analyses.engine import Asked, engine
    from analyses.finished import read_run
    from analyses.level import Level, level_of
    from diagnostics.arithmetic.machine import require_fit

    torch.set_num_threads(1)
    asked, forced = Asked(workers=workers), level and Level(level, "as asked")
    run = read_run(folder)
    here = manifest.manifest(run.settings, "check", manifest.now(), 0.0, {})
    how = forced or level_of(run.manifest, here)
    settings = again.other_seeds(run.settings) if how.name == "statistical" else run.settings
    cells = again.chosen(settings, sample, sample_seed)
    for name in dict.fromkeys(cell.spec.get("device", "cpu") for cell in cells):
        require_device(name)
    note(f"{len(cells)} cells of {folder}, to be compared at the level {how.name} ({how.why})")
    require_fit()
    try:
        with engine(asked, _tell) as measuring:
            found = again.measure_again(settings, cells, _bar() if _on_a_terminal() else _line, measuring)
    except KeyboardInterrupt:
        note("interrupted; nothing is kept of a check, and the run is as it was")
        sys.exit(130)
    drawn = f" drawn with seed {sample_seed}" if sample is not None else ""
    failed = [f"failed: {failure.cell.name}: {failure.reason}" for failure in found.failed]
    what = f"{len(found.rows)} of {len(again.chosen(settings))} cells{drawn}"
    _tell_verdict(how, again.check(run, found, how.name), what, run.manifest, failed)


@main.command()
@click.argument("first", metavar="RUN_A", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN_B", type=click.Path(path_type=Path))
@click.option("--level", metavar="bitwise|numeric|statistical", help="How closely to compare.  [default: the closest "
              "that fits what the two manifests tell]")  # fmt: skip
@guarded
def compare(first: Path, second: Path, level: str | None) -> None:
    """Compare the tables of two runs, RUN_B with RUN_A; see docs/reproduce.md. Exit code 1 where anything differs."""
    from analyses.check import compare_runs
    from analyses.finished import read_run
    from analyses.level import level_of

    expected, found = read_run(first), read_run(second)
    how = level_of(expected.manifest, found.manifest, level)
    _tell_verdict(how, compare_runs(expected, found, how.name), f"{second} against {first}", found.manifest, [])


def _tell_verdict(how: Any, lines: Any, what: str, facts: Any, failed: list[str]) -> None:
    from analyses.verdict import checklist, holds, in_words

    held = holds(lines)
    try:
        for line in (*in_words(how, lines, what), *checklist(facts)):
            click.echo(line)
    except OSError as error:
        _close(sys.stdout)
        note(f"stdout: expected it to take the table, found {error.strerror}; the exit code tells whether it holds")
    for line in failed:
        note(line)
    if not held or failed:
        sys.exit(4 if held else 1)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@guarded
def salvage(folder: Path) -> None:
    """Save the cells that are whole out of the damaged store of the folder RUN."""
    from analyses.salvage import salvage as save
    from analyses.settings import Unreadable
    from analyses.store import Store

    if not (folder / "run.sqlite").exists():
        raise Unreadable(f"{folder}: expected a run (run.sqlite), found nothing there; give the folder of a run")
    cells, aside = save(Store(folder / "run.sqlite"))
    found = (
        f"the damaged store is now {aside}; the command of the run measures the rest" if aside else "nothing is lost"
    )
    click.echo(f"{folder}: {cells} cells are whole; {found}")


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


@main.group("data")
def data_() -> None:
    """Inspect, check, decode and convert data sets of images on disk; see docs/data.md."""


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which data set, and how it is split."""
    options = (
        click.argument("path"),
        click.option("--partition", default="", metavar="NAME|PATH", help="vinyals or lake for Omniglot; a folder in "
                     "splits/; or a list of classes: a JSON file, or a folder of train.txt, test.txt and so on."),
        click.option("--side", type=int, default=0, help="Side of images that come in many sizes.  [default: 84]"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@data_.command("info")
@data_options
@guarded
def data_info(path: str, partition: str, side: int) -> None:
    """Tell what is at PATH (a folder, a zip, an .npz, or `glyphs`), and the --problem that draws episodes from it."""
    from diagnostics.data import inspection, library

    found = library.load(path, partition, side=side)
    for finding in inspection.described(found):
        click.echo(f"{finding.what}: {finding.value}")
    click.echo(f"--problem '{library.problem_name(found, path, partition, side)}'")


@data_.command("check")
@data_options
@click.option("--expect", metavar="NAME", help="Compare the counts with those published: omniglot, omniglot-lake, "
              "mini-imagenet, tiered-imagenet or cifar-fs.")  # fmt: skip
@click.option("--content", metavar="HASH", help="The content that this data set should have.")
@click.option("--workers", type=int, default=0, show_default=True, help="Processes that decode.")
@guarded
def data_check(path: str, partition: str, side: int, expect: str | None, content: str | None, workers: int) -> None:
    """Decode every image at PATH; verify counts and content, and that splits share no class and no image."""
    from diagnostics.data import inspection, library
    from diagnostics.data.workers import reading

    found = library.load(path, partition, side=side, cached=False)
    with reading(found.source, workers) as read:
        findings = inspection.checked(found, read, expect, content, _counter(found.source.shape[0]))
    for finding in findings:
        click.echo(f"{'ok ' if finding.good else 'BAD'}  {finding.what}: {finding.value}")
        if not finding.good:
            click.echo(f"     {finding.advice}")
    if not all(finding.good for finding in findings):
        sys.exit(1)


@data_.command("cache")
@data_options
@click.option("--workers", type=int, default=0, show_default=True, help="Processes that decode.")
@guarded
def data_cache(path: str, partition: str, side: int, workers: int) -> None:
    """Decode every image at PATH once, into the cache folder ($GRADGAUGE_CACHE); episodes then read it from there."""
    from diagnostics.data import image_cache, library
    from diagnostics.data.workers import reading

    found = library.load(path, partition, side=side, cached=False)
    with reading(found.source, workers) as read:
        click.echo(image_cache.keep(found.source, read, _counter(found.source.shape[0])))


@data_.command("convert")
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="The pickle of the labels, where it is "
              "not that of the images, as with tieredImageNet.")  # fmt: skip
@guarded
def data_convert(images: Path, out: Path, labels: Path | None) -> None:
    """Turn the pickle IMAGES of one split into OUT, an .npz; what a pickle says is never run.

    Name OUT after its split (train.npz, val.npz, test.npz): the folder that holds them is then a data set.
    """
    from diagnostics.data.conversion import convert

    count, classes = convert(images, labels, out)
    click.echo(f"{out}: {count} images of {classes} classes")


def _counter(total: int) -> Callable[[int], None]:
    """A line on a terminal, rewritten as images are done; nothing elsewhere."""
    if not _on_a_terminal():
        return lambda done: None
    return lambda done: note(f"\r{done}/{total} images", end=done == total)


def train_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `train`, each an entry of `diagnostics.training.recipe.Recipe`, whose default it has."""
    options = (
        click.option("--problem", default="sinusoid", show_default=True, metavar="NAME", help="As in "
                     "'few_shot[ways=20,width=16]'. See `gradgauge list problems`, and `gradgauge data info`."),
        click.option("--method", metavar="NAME", help="maml, fomaml, imaml, or an estimator by its name.  "
                     "[default: maml]"),
        click.option("--inner-steps", type=int, help="Inner steps in training.  [default: 5]"),
        click.option("--cg-iterations", type=int, help="Iterations of CG, for implicit gradients.  [default: 5]"),
        click.option("--solver", metavar="cg_unchecked|cg", help="Whether CG goes on past negative curvature, or stops "
                     "before it.  [default: cg_unchecked]"),
        click.option("--inner-optimizer", metavar="NAME", help="Inner optimizer.  [default: gd]"),
        click.option("--inner-lr", type=float, help="Size of an inner step, in place of the problem's own."),
        click.option("--strength", type=float, help="Strength of the proximal term, in place of the problem's own."),
        click.option("--precision", metavar="NAME", help="Arithmetic of all of it.  [default: float32]"),
        click.option("--scaling", metavar="NAME", help="Rescaling, made anew for each batch.  [default: none]"),
        click.option("--outer", "outer_optimizer", metavar="adam|sgd", help="Outer optimizer.  [default: adam]"),
        click.option("--meta-lr", type=float, help="Size of an outer step.  [default: 0.001]"),
        click.option("--schedule", metavar="constant|cosine", help="Of the outer step.  [default: constant]"),
        click.option("--clip-norm", type=float, help="Longest meta-gradient; 0 for any.  [default: 0.0]"),
        click.option("--clip-value", type=float, help="Largest component of it; 0 for any.  [default: 0.0]"),
        click.option("--iterations", "meta_iterations", type=int, help="Outer steps.  [default: 1000]"),
        click.option("--batch", "tasks", type=int, help="Tasks a step.  [default: 25]"),
        click.option("--seed", type=int, help="Of the first theta, and of all tasks.  [default: 0]"),
        click.option("--validate-every", type=int, help="Iterations between validations.  [default: 100]"),
        click.option("--validation-tasks", type=int, help="Tasks that choose the best theta.  [default: 100]"),
        click.option("--probe-every", type=int, help="Iterations between probes of the gradient; 0 for none.  "
                     "[default: 0]"),
        click.option("--probe-tasks", type=int, help="Tasks of a probe.  [default: 4]"),
        click.option("--patience", type=int, help="Further inner steps in search of the minimiser, for the stationary "
                     "reference of the probes; 0 leaves it out.  [default: 0]"),
        click.option("--reference-seconds", type=float, help="Estimated time that a probe's reference in extended "
                     "precision may take; beyond it is float64's.  [default: 0.0]"),
        click.option("--test-steps", callback=whole_numbers, metavar="1,3,5,..", help="Inner steps at test time.  "
                     "[default: 1,3,5,10,20]"),
        click.option("--test-tasks", type=int, help="Tasks of the test.  [default: 600]"),
        click.option("--chunk", type=int, help="Tasks at a time; 0 for as many as fit in memory.  [default: 0]"),
        click.option("--device", metavar="cpu|cuda|cuda:N", help="Where tensors are computed.  [default: cpu]"),
        click.option("--checkpoint-seconds", type=float, default=20.0, show_default=True, help="Between checkpoints."),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder; one of the same "
                     "settings is completed.  [default: reports/train-HASH]"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@train_options
@guarded
def train(out: Path | None, checkpoint_seconds: float, **given: Any) -> None:
    """Meta-train a network, then test it; interrupted or killed, the same command goes on from its last checkpoint.

    Writes curve.csv, probe.csv, test.csv, checkpoint.npz and manifest.json. A run that diverges keeps its last good
    theta and is tested with it; the exit code is then 4.
    """
    import torch

    from analyses import training_folder
    from analyses.device import require_device
    from diagnostics.arithmetic.machine import require_fit
    from diagnostics.training.recipe import Recipe, parts

    torch.set_num_threads(1)  # as in every measurement: the digits do not depend on the machine's cores
    recipe = Recipe(**{name: value for name, value in given.items() if value is not None})
    require_device(recipe.device)
    require_fit()
    parts(recipe)  # what is unknown is told before anything is begun
    folder = out or Path("reports") / training_folder.folder_name(recipe)
    note(f"{recipe.meta_iterations} iterations into {folder}")
    show = _training_shown(recipe.meta_iterations, recipe.validate_every)
    run = training_folder.train_into(folder, recipe, show, checkpoint_seconds)
    say([*training_folder.summary(run), folder], folder / "test.csv")
    if run.progress.diverged_at >= 0:
        note(
            f"diverged at iteration {run.progress.diverged_at}: its gradient or loss is not finite; take a smaller "
            "--meta-lr or --inner-lr, or --clip-norm; the theta of before was tested"
        )
        sys.exit(4)


def _training_shown(total: int, every: int) -> Callable[[Any], None]:
    """What is told of training meanwhile: a bar on a terminal, elsewhere a line for each validation."""
    begun, first, shown, bar = time.monotonic(), None, 0.0, _on_a_terminal()

    def show(progress: Any) -> None:
        nonlocal first, shown
        first = progress.iteration - 1 if first is None else first
        done, now = progress.iteration, time.monotonic()
        if now - shown < 0.2 and done < total if bar else done % every and done < total:
            return
        shown = now
        left = (now - begun) / (done - first) * (total - done)
        _, loss, accuracy, _ = progress.validations[-1]
        told = [f"loss {progress.losses[-1]:.4g}", f"validation {loss:.4g}"]
        told += [] if accuracy != accuracy else [f"accuracy {accuracy:.1%}"]
        told += [f"cosine {progress.probes[-1][3]:.4f}"] if progress.probes else []
        line = f"{done}/{total}: {', '.join(told)}, about {left:.0f} s left"
        filled = 20 * done // total
        note(f"\r[{'#' * filled}{'.' * (20 - filled)}] {line:<90}" if bar else line, end=done == total or not bar)

    return show


def _measure(
    analyses: tuple[str, ...],
    preset: str,
    config: Path | None,
    out: Path | None,
    problems: tuple[str, ...],
    parquet: bool,
    dry_run: bool,
    yes: bool,
    who: dict[str, Any],
    **flags: Any,
) -> None:
    from analyses.engine import Asked, engine
    from analyses.settings import read_file, resolve

    settings = resolve(analyses, preset, read_file(config) if config else {}, flags, problems)
    retry_killed = who.pop("retry_killed")
    asked = Asked(**who)

    import torch

    from analyses import folder as run_folder
    from analyses import limits, manifest, plan, run
    from analyses.device import require_device
    from diagnostics.arithmetic.machine import require_fit
    from diagnostics.cost.process_bytes import free_bytes
    from figures.report import answers, write_report

    torch.set_num_threads(
        1
    )  # small models run no slower on one thread, and the digits do not depend on the machine's cores
    if parquet:
        run_folder.require_parquet()
    cells = run.cells_of(settings)
    if not cells:
        refuse(f"{', '.join(analyses)}: expected settings that ask for something, found nothing to measure; {NOTHING}")
    folder = out or Path("reports") / run.run_name(preset, settings)
    if dry_run:
        for line in plan.lines(plan.plan(settings, plan.kept(folder, run.identity(settings)))):
            click.echo(line)
        return
    for name in dict.fromkeys(cell.spec.get("device", "cpu") for cell in cells):
        require_device(name)
    if not yes and (question := limits.too_long(cells)):
        refuse(question)
    with engine(asked, _tell) as measuring:
        store = run.open_run(folder, settings)
        begun = manifest.now()
        note(f"{len(cells)} cells into {folder}")
        require_fit()
        report = _bar() if _on_a_terminal() else _line
        free = None if asked.kind == "cluster" else free_bytes()
        each = free and free // (asked.workers or (os.cpu_count() or 1 if asked.kind == "local" else 1))
        failed = run.measure_all(settings, store, report, measuring, retry_killed=retry_killed, free=each)
    tables = dict(run_folder.tables(settings, store))
    given_up = run.given_up(settings, store.keys())
    facts = manifest.manifest(settings, preset, begun, store.seconds(), measuring.record())
    run_folder.write_tables(folder, tables, parquet=parquet)
    run_folder.write_manifest(folder, facts)
    page = write_report(folder, tables, facts)
    say([*answers(tables), page], folder / "summary.md")
    for failure in failed:
        note(f"failed: {failure.cell.name}: {failure.reason}")
    for cell in given_up:
        note(f"killed: {cell.name}: its workers died one after the other; --retry-killed measures it again")
    if failed or given_up:
        sys.exit(4)


def _line(progress: Progress) -> None:
    note(f"[{progress.done}/{progress.total}] {progress.cell.name}: {progress.seconds:.1f} s")


def _on_a_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # None where the stream was closed beforehand


def _tell(line: str) -> None:
    note(f"\r{line:<110}" if _on_a_terminal() else line)  # over the bar


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
        note(f"\r{line}  {progress.cell.name:<60.60}", end=progress.done == progress.total)

    return show


if __name__ == "__main__":
    main()
