"""Outcomes: an order of gravity, and advice that can be shown as it is."""

import torch

from diagnostics.outcome import Outcome, decode, graver, where


def test_the_order_is_of_gravity() -> None:
    codes = [outcome.code for outcome in Outcome]
    assert codes == sorted(codes) == list(range(len(codes)))
    assert Outcome.OK.code == 0
    assert Outcome.UNFINISHED.code < Outcome.NEGATIVE_CURVATURE.code < Outcome.SINGULAR.code < Outcome.DIVERGED.code
    assert Outcome.INDEFINITE.code < Outcome.NEGATIVE_CURVATURE.code < Outcome.NOT_FINITE.code
    # A reference that cannot tell is the least of troubles; digits lost to underflow are worse than any warning.
    assert Outcome.OK.code < Outcome.UNRESOLVED.code < Outcome.UNFINISHED.code
    assert Outcome.NEGATIVE_CURVATURE.code < Outcome.UNDERFLOW.code < Outcome.SINGULAR.code


def test_what_leaves_no_number_has_failed() -> None:
    failed = {outcome for outcome in Outcome if outcome.failed}
    assert failed == {
        Outcome.SINGULAR,
        Outcome.SOLVER_DIVERGED,
        Outcome.UNSOLVED,
        Outcome.NOT_STATIONARY,
        Outcome.REPLAY_DIFFERS,
        Outcome.NOT_FINITE,
        Outcome.DIVERGED,
        Outcome.TOO_LARGE,
        Outcome.KILLED,
    }
    assert not Outcome.UNRESOLVED.failed and not Outcome.UNDERFLOW.failed  # their numbers are true, and stay in view


def test_every_outcome_but_ok_says_what_to_do() -> None:
    assert Outcome.OK.advice == ""
    for outcome in Outcome:
        assert outcome.label == outcome.label.lower() and "\n" not in outcome.advice
        if outcome is not Outcome.OK:
            assert outcome.advice[0].isupper() and outcome.advice.endswith(".") and len(outcome.advice) > 40
    assert len({outcome.label for outcome in Outcome}) == len(Outcome)


def test_the_graver_of_two_is_element_by_element() -> None:
    a = torch.tensor([Outcome.OK.code, Outcome.DIVERGED.code, Outcome.UNFINISHED.code])
    b = torch.tensor([Outcome.SINGULAR.code, Outcome.SINGULAR.code, Outcome.OK.code])
    assert decode(graver(a, b)) == [Outcome.SINGULAR, Outcome.DIVERGED, Outcome.UNFINISHED]
    assert decode(graver(a)) == decode(a)
    assert decode(graver(a, b, torch.tensor([Outcome.NOT_FINITE.code]))) == [
        Outcome.NOT_FINITE, Outcome.DIVERGED, Outcome.NOT_FINITE,
    ]  # fmt: skip


def test_codes_from_a_condition() -> None:
    assert decode(where(torch.tensor([True, False]), Outcome.SINGULAR)) == [Outcome.SINGULAR, Outcome.OK]
    assert decode(where(torch.tensor([[True], [False]]), Outcome.SINGULAR)) == [Outcome.SINGULAR, Outcome.OK]
