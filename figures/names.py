"""What the figures call things: names out of a table as words for people, safe to typeset."""

from functools import cache

from matplotlib import font_manager

METHODS = {
    "unrolled": "unrolled (MAML)",
    "unrolled_adjoint": "unrolled by adjoint sweep",
    "first_order": "first order (FOMAML)",
    "exact": "implicit, solved exactly",
    "cg_unchecked": "implicit, CG as released",
    "cg": "implicit, CG that stops at negative curvature",
}
TARGETS = {
    "unrolled": "unrolled gradient",
    "stationary": "stationary gradient",
    "exact_solve": "implicit gradient solved exactly",
}
LONGEST = 60


def method_name(method: str) -> str:
    """An estimator, or an implicit estimator's solver, in words."""
    return METHODS.get(method, printable(method.replace("_", " ")))


def problem_name(problem: str) -> str:
    """`linear_regression[condition=10]` as `linear regression (condition 10)`; not yet safe to typeset."""
    name, bracket, rest = problem.partition("[")
    words = name.replace("_", " ").strip() or "(no name)"
    if not bracket:
        return words
    settings = rest.replace("]", "").replace("=", " ").replace(",", ", ").replace("_", " ")
    return f"{words} ({' '.join(settings.split())})"


def printable(text: str, longest: int = LONGEST) -> str:
    """Text that matplotlib draws as it stands: no mathtext, no glyph that the font lacks, on one line, not too long."""
    known = _characters()
    line = "".join(c if ord(c) in known else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    if len(line) > longest:
        line = line[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return line.replace("$", r"\$")


@cache
def _characters() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())
