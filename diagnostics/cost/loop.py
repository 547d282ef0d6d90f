"""The inner loop as one estimator needs it.

An estimator is handed a recorded trajectory, which holds every state. Someone who wants this one gradient would keep
less, or nothing. To price a gradient, the loop is therefore run once more, keeping the states that its estimator looks
at and no others, and they are held while the estimator runs. The recorded trajectory was there before, and is no part
of the price.
"""

from diagnostics.estimators.checkpointed import checkpoints

RUNS_THE_LOOP = ("unrolled", "finite_difference", "released_imaml_loop")
NEEDS_THE_END = ("first_order", "implicit", "implicit_fixed_point", "reptile", "released_gbml", "released_imaml")


def kept_states(estimator: str, steps: int) -> tuple[int, ...] | None:
    """The numbers of the states of a loop of so many steps that an estimator looks at; None if it runs the loop itself.

    An estimator that is not known here is taken to look at all of them.
    """
    if estimator in RUNS_THE_LOOP:
        return None
    if estimator in NEEDS_THE_END:
        return (steps,)
    if estimator == "one_step":
        return tuple(range(max(0, steps - 1), steps + 1))
    return checkpoints(steps) if estimator == "checkpointed" else tuple(range(steps + 1))
