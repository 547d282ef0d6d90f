"""The analysis of generalized few-shot: its cells and refusals, its rows against the protocol, and resumed runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses import generalized as module
from analyses.analysis import Cell
from analyses.folder import as_csv, from_csv, tables
from analyses.generalized import measure_spec, rows_of
from analyses.run import cells_of, measure_all, open_run
from analyses.settings import Settings, resolve
from analyses.table import tidy
from analyses.task import answers, as_text
from analyses.tolerances import KEY
from analyses.unfinished import keeping, place_of
from diagnostics.protocols.generalized import harmonic_mean
from diagnostics.training.checkpoint import NAME as CHECKPOINT
from diagnostics.training.checkpoint import read_checkpoint
from diagnostics.training.generalized import judge_network, judge_pixels
from diagnostics.training.recipe import Recipe, parts
from diagnostics.training.train import Trained, meta_train, start, train

NAME = "generalized_few_shot[base=4,ways=2,queries=2,width=4]"
TABLE: dict[str, Any] = {
    "problems": [NAME], "methods": ["maml", "imaml"], "solvers": ["cg"], "steps": [1, 3], "tasks": 2, "seeds": [0],
    "meta_iterations": 3, "validate_every": 2, "validation_tasks": 4, "test_tasks": 3, "test_steps": [0, 2],
    "meta_lr": 0.01,
}  # fmt: skip
MEASURES = {"accuracy": "overall", "base_accuracy": "base", "novel_accuracy": "novel", "harmonic_mean": "harmonic",
            "delta1": "delta1", "delta2": "delta2"}  # fmt: skip


def settings(**more: object) -> Settings:
    return resolve(("generalized",), "smoke", {"generalized": [TABLE | more]}, {})


def specs(asked: Settings) -> list[Any]:
    return [cell.spec for cell in cells_of(asked)]


def recipe_of(spec: Any) -> Recipe:
    return Recipe(**{**spec, "test_steps": tuple(spec["test_steps"])})


def test_cells_are_the_runs_of_the_tables_tested_after_their_own_steps_too() -> None:
    found = specs(settings(seeds=[0, 1]))
    assert len(found) == 2 * 2 * 2 and {tuple(spec["test_steps"]) for spec in found} == {(0, 1, 2), (0, 2, 3)}
    assert {(spec["method"], spec["solver"]) for spec in found} == {("maml", "cg_unchecked"), ("imaml", "cg")}
    assert asdict(recipe_of(json.loads(json.dumps(found[0])))) == found[0]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"problems": ["sinusoid"]}, "expected one with base and novel classes in a joint label space"),
        ({"problems": [NAME, "few_shot[width=4]"]}, "(generalized_few_shot), found 'few_shot[width=4]'"),
        ({"problems": ["generalised_few_shot"]}, "did you mean 'generalized_few_shot'"),
        ({"problems": ["generalized_few_shot[split=test]"]}, "expected the split train"),
        ({"problems": ["generalized_few_shot[base=3,ways=3]"]}, "expected ways < base in training"),
        ({"methods": ["mamml"]}, "unknown method 'mamml'; did you mean 'maml'"),
        ({"meta_lr": 0.0}, "meta_lr: input should be greater than 0"),
        ({"test_step": [1]}, "unknown entry 'test_step'; did you mean 'test_steps'?"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(wrong: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        cells_of(settings(**wrong))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_no_preset_asks_for_it_and_no_other_table_does() -> None:
    assert not cells_of(resolve(("generalized",), "full", {}, {}))
    assert not cells_of(resolve(("training",), "smoke", {"generalized": [TABLE]}, {}))


@pytest.fixture(scope="module")
def run() -> Trained:
    return train(recipe_of(specs(settings(methods=["maml"], steps=[1], test_steps=[2]))[0]))


@pytest.fixture(scope="module")
def rows(run: Trained) -> pd.DataFrame:
    return tidy(rows_of(run))


def test_the_rows_of_a_task_are_the_protocols_numbers(run: Trained, rows: pd.DataFrame) -> None:
    found = judge_network(parts(run.recipe), run.progress.best.theta)
    test = rows[(rows["stage"] == "test") & (rows["task"] >= 0)]
    assert len(test) == 2 * 2 * 3 and set(test["estimator"]) == {"unrolled_adjoint"}
    for (steps, kind, task), row in test.set_index(["test_steps", "calibration", "task"]).iterrows():  # pyright: ignore
        judged = found[steps]
        measured = judged.tuned if kind == "tuned" else judged.plain
        assert {name: row[name] for name in MEASURES} == {
            name: float(getattr(measured, of)[task]) for name, of in MEASURES.items()
        }
        assert row["bias"] == (judged.bias if kind == "tuned" else 0.0) and row["area"] == float(judged.area[task])
        assert row["loss"] == float(run.trained.loss[(1, 2).index(steps), task]) or kind == "tuned"
    assert test.loc[test["calibration"] == "tuned", "loss"].isna().all()
    assert {float(judged.bias) for judged in found.values()} != {0.0}


def test_accuracy_without_a_bias_is_what_training_itself_reports(run: Trained, rows: pd.DataFrame) -> None:
    plain = rows[(rows["stage"] == "test") & (rows["task"] >= 0) & (rows["calibration"] == "none")]
    assert plain["accuracy"].tolist() == run.trained.accuracy.flatten().tolist()


def test_the_floors_are_means_with_a_bias_of_their_own(run: Trained, rows: pd.DataFrame) -> None:
    made = parts(run.recipe)
    untrained, pixels = judge_network(made, start(made)), judge_pixels(made)
    floors = rows[(rows["stage"] == "test") & (rows["task"] == -1)]
    found = {}
    for _, row in floors.iterrows():
        steps = None if pd.isna(row["test_steps"]) else int(row["test_steps"])
        found[(str(row["estimator"]), steps, str(row["calibration"]))] = row
    expected = {("untrained", steps): judged for steps, judged in untrained.items()}
    expected |= {(name, None): judged for name, judged in pixels.items()}
    assert set(found) == {(*key, kind) for key in expected for kind in ("none", "tuned")} and len(floors) == len(found)
    for key, judged in expected.items():
        for kind, measured in (("none", judged.plain), ("tuned", judged.tuned)):
            row = found[(*key, kind)]
            assert row["base_accuracy"] == float(measured.base.mean())
            assert row["harmonic_mean"] == float(measured.harmonic.mean())
            both = harmonic_mean(measured.base.mean(), measured.novel.mean())
            assert row["harmonic_mean"] <= float(both) + 1e-15
            assert row["bias"] == (judged.bias if kind == "tuned" else 0.0)
    assert floors["solver"].isna().all() and floors["outer_lr"].isna().all() and (floors["iteration"] == 0).all()


def test_no_two_rows_are_of_the_same_thing_and_a_file_gives_them_back(rows: pd.DataFrame, tmp_path: Path) -> None:
    assert not rows.duplicated(list(KEY)).any()
    (tmp_path / "rows.csv").write_bytes(as_csv(rows))
    pd.testing.assert_frame_equal(from_csv(tmp_path / "rows.csv"), rows)


def test_the_other_stages_are_those_of_training(run: Trained, rows: pd.DataFrame) -> None:
    assert rows["stage"].value_counts().to_dict() == {"test": 12 + 2 * (2 + 2), "validation": 3, "train": 2, "end": 1}
    assert rows.loc[rows["stage"] != "test", "calibration"].isna().all()


def test_nothing_is_trained_where_training_would_see_a_novel_class(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(made: object) -> None:
        raise ValueError("expected novel classes that training does not see")

    monkeypatch.setattr(module, "refuse_seen", refuse)
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(ValueError, match="does not see"):
        measure_spec(specs(settings())[0])


def test_a_cell_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped in its second of three iterations; the second time only two more are made."""
    (spec,) = specs(settings(methods=["fomaml"], steps=[1], test_steps=[1]))
    whole = measure_spec(spec)
    recipe = recipe_of(spec)

    class Stopped(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.iteration == 2:
            raise Stopped

    with keeping(tmp_path):
        place = place_of("generalized", spec)
    assert place is not None and place != place_of("training", spec)
    with pytest.raises(Stopped):
        meta_train(parts(recipe), place, stop, 0.0)
    kept = read_checkpoint(place / CHECKPOINT, recipe)
    assert kept is not None and kept.iteration == 1
    drawn: list[int] = []
    from diagnostics.training import train as of_training

    original = of_training.batch_gradient
    monkeypatch.setattr(of_training, "batch_gradient", lambda *given: drawn.append(1) or original(*given))
    with keeping(tmp_path):
        (answer,) = answers(as_text([Cell("generalized", spec)]), "auto")
    assert len(drawn) == 2 and answer.rows is not None, answer.reason
    for one, other in zip(whole, answer.rows, strict=True):
        assert {k: repr(v) for k, v in one.items() if k != "elapsed"} == {
            k: repr(v) for k, v in other.items() if k != "elapsed"
        }


@pytest.mark.slow
def test_a_run_writes_its_table_and_a_run_that_diverges_says_so(tmp_path: Path) -> None:
    asked = settings(steps=[1], test_steps=[1], inner_lr=1e30)
    store = open_run(tmp_path, asked)
    assert not measure_all(asked, store, lambda progress: None)
    ((name, table),) = tables(asked, store)
    assert name == "generalized" and set(table["estimator"]) >= {"unrolled_adjoint", "implicit", "nearest_mean"}
    assert set(table.loc[table["stage"] == "end", "outcome"]) == {"diverged"}
    lost = table[(table["stage"] == "test") & (table["task"] >= 0)]
    assert set(lost["outcome"]) == {"diverged"} and not lost[["base_accuracy", "harmonic_mean"]].any(axis=None)
