"""Why an implicit gradient is right or wrong at a number of inner steps, in words, from what was measured there."""

from figures.caution import ADVICE
from figures.ends import Ends
from figures.wording import of_tasks, percent, plain, steps, with_interval

CONVERGED, NEARLY = 1e-6, 1e-2  # norm of the inner gradient, relative to its first
EDGE = 1.8  # gradient descent with step a is unstable in directions of curvature above 2/a


def convergence(ends: Ends, count: float) -> str:
    """How far the loop has come."""
    found = ends.median("stationarity", count)
    if found[0] != found[0]:
        return "the inner gradient is not a number"
    if count == 0:
        return "no inner step was taken"
    left = f"the inner gradient is {{}}{with_interval(found, percent)} of its first"
    if found[0] <= CONVERGED:
        return f"the loop has converged ({left.format('')})"
    if found[0] <= NEARLY:
        return f"the loop has nearly converged ({left.format('down to ')})"
    return f"the loop has not converged ({left.format('still ')})"


def definiteness(ends: Ends, count: float) -> str:
    """What the inner Hessian is like."""
    tasks, hit, broke = (ends.count(what, count) for what in ("tasks", "indefinite", "broke_down"))
    if ends.count("min_eigenvalue_missing", count) == tasks:
        return "the curvature was not measured"
    if not hit:
        return "the inner Hessian is positive definite in " + ("the one task" if tasks == 1 else f"all {tasks} tasks")
    breakdown = f", and CG meets negative curvature in {broke}" if broke else ""
    return f"the inner Hessian is indefinite in {of_tasks(hit, tasks)}{breakdown}"


def warning(ends: Ends, count: float) -> str:
    """The remark that goes with each implicit number taken there: empty where every Hessian is positive definite."""
    tasks, hit = ends.count("tasks", count), ends.count("indefinite", count)
    return f" (warning: inner Hessian indefinite in {of_tasks(hit, tasks)})" if hit else ""


def divergence(ends: Ends) -> str:
    """A sentence where loops overflowed, so that their tasks have no number; else nothing."""
    last = ends.steps()[-1]
    hit = ends.count("diverged", last)
    if not hit:
        return ""
    where = f"in {of_tasks(hit, ends.count('tasks', last))} by {steps(last)}"
    return f" The inner loop diverged {where}, and there is no number then. {ADVICE['diverged']}"


def instability(ends: Ends) -> str:
    """A sentence where the loop moves away from a stationary point instead of towards it; else nothing."""
    counts = ends.steps()
    left = [ends.median("stationarity", count)[0] for count in counts]
    if len(left) < 2 or not left[-1] > 1.5 * min(left):
        return ""
    best, last = counts[left.index(min(left))], counts[-1]
    sentence = (
        f" The loop does not settle: its gradient falls to {percent(min(left))} of its first at {steps(best)} and is "
        f"back at {percent(left[-1])} at {last:g}"
    )
    edge = ends.median("step_curvature", last)
    if edge[0] >= EDGE:
        sentence += (
            f"; the inner step times the largest curvature is {with_interval(edge, plain)} there, and 2 is where "
        )
        return sentence + "gradient descent becomes unstable."
    return sentence + "."
