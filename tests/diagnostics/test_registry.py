"""Registries and names: what a user may write, and what is said of what he may not."""

import pytest

from diagnostics import problem_names
from diagnostics.arithmetic.precision import precision
from diagnostics.inner import optimizers
from diagnostics.meta_gradient import estimators
from diagnostics.problem_names import build, parse, problems
from diagnostics.registry import Registry, unknown
from diagnostics.solvers import solvers

ALL = {"problem": problems, "estimator": estimators, "linear solver": solvers, "inner optimizer": optimizers}


def test_what_the_instrument_comes_with() -> None:
    assert {"quadratic", "linear_regression", "logistic", "sinusoid"} <= set(problems.names())
    assert {"unrolled", "unrolled_adjoint", "first_order", "implicit"} <= set(estimators.names())
    assert {"cg", "dense"} <= set(solvers.names())
    assert "gd" in optimizers.names()
    for registry in ALL.values():
        assert list(registry.names()) == sorted(registry.names())


@pytest.mark.parametrize("kind", ALL)
def test_an_unknown_name_is_answered_with_all_that_are_known(kind: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {kind} 'zzz'; known: ") as caught:
        ALL[kind]["zzz"]
    for name in ALL[kind].names():
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "wrong", "near"),
    [
        ("problem", "quadratc", "quadratic"),
        ("problem", "sinusoids", "sinusoid"),
        ("estimator", "unroled", "unrolled"),
        ("linear solver", "dens", "dense"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(kind: str, wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {kind} '{wrong}'; did you mean '{near}'?"):
        ALL[kind][wrong]


def test_a_name_that_is_taken_is_refused() -> None:
    registry: Registry[int] = Registry("thing", "diagnostics.optimizers")
    registry.register("one")(1)
    with pytest.raises(ValueError, match="thing 'one' is registered twice; give one of them another name"):
        registry.register("one")(2)
    assert registry.entries == {"one": 1}
    with pytest.raises(ValueError, match="problem 'quadratic' is registered twice"):
        problems.names()
        problems.register("quadratic")(problems["quadratic"])


def test_one_line_for_an_unknown_name() -> None:
    assert unknown("colour", "bleu", ("blue", "red")) == "unknown colour 'bleu'; did you mean 'blue'? known: blue, red"
    assert unknown("colour", "zz", ("blue", "red")) == "unknown colour 'zz'; known: blue, red"


def test_precisions_by_name() -> None:
    assert precision("float32").eps == 2.0**-23 and precision("float64").eps == 2.0**-52
    with pytest.raises(ValueError, match="unknown precision 'float23'; did you mean 'float32'?"):
        precision("float23")


# ---- problem names


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("quadratic", {}),
        ("quadratic[]", {}),
        (" quadratic ", {}),
        ("quadratic[dimension=3]", {"dimension": "3"}),
        ("sinusoid[activation=relu, strength=50]", {"activation": "relu", "strength": "50"}),
        ("quadratic[strength=-1e-3]", {"strength": "-1e-3"}),
    ],
)
def test_names_are_taken_apart(text: str, parameters: dict[str, str]) -> None:
    assert parse(text) == (text.strip().partition("[")[0], parameters)


@pytest.mark.parametrize(
    "text",
    [
        "", "quadratic[", "quadratic]", "quadratic[dimension]", "quadratic[dimension=]", "quadratic[=3]",
        "quadratic[,]", "quadratic[dimension=3]x", "3quadratic", "a b", "quadratic[[dimension=3]]",
        "quadratic(dimension=3)", "../quadratic",
    ],
)  # fmt: skip
def test_names_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"problem: expected a name or name\[parameter=value,...\], found"):
        parse(text)


def test_parameters_reach_the_builder_as_what_they_are() -> None:
    problem = build("quadratic[dimension=3,strength=0.25]")
    assert problem.strength == 0.25 and problem.init(0).shape == (3,)
    assert build("quadratic[dimension=3]", strength=0.5, learning_rate=None).strength == 0.5
    assert build("quadratic[strength=0.25]", strength=0.5).strength == 0.5  # what is asked for apart comes last
    assert build("quadratic[learning_rate=0.125]").learning_rate == 0.125


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quadratc[dimension=3]", "unknown problem 'quadratc'; did you mean 'quadratic'?"),
        ("quadratic[dimensoin=3]", "unknown parameter of problem quadratic 'dimensoin'; did you mean 'dimension'?"),
        ("quadratic[dimension=three]", "expected dimension to be a .*, found 'three'"),
        ("quadratic[dimension=2.5]", "expected dimension to be a .*, found '2.5'"),
        ("quadratic[dimension=0]", "quadratic: dimension: expected a whole number >= 1, found 0"),
        ("quadratic[condition=0.5]", "quadratic: condition: expected a finite number >= 1, found 0.5"),
        ("quadratic[condition=nan]", "quadratic: condition: expected a finite number >= 1, found nan"),
        ("quadratic[learning_rate=0]", "quadratic: learning_rate: expected a finite number > 0, found 0"),
        ("linear_regression[dimension=50]", "linear_regression: examples: expected a whole number >= 50, found 40"),
        ("sinusoid[activation=tan]", "activation: expected one of tanh, relu, .*found 'tan'"),
        ("sinusoid[phase=maxml]", "sinusoid: phase: expected one of maml, imaml, found 'maxml'"),
        ("sinusoid[shots=0]", "sinusoid: shots: expected a whole number >= 1, found 0"),
    ],
)
def test_wrong_parameters_are_answered_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build(name)
    assert "\n" not in str(caught.value)


def test_the_registry_is_the_one_that_problems_enter() -> None:
    assert problem_names.problems is problems and problems["quadratic"].__name__ == "quadratic"
