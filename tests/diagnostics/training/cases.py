"""Small recipes that train in a moment."""

from diagnostics.training.recipe import Recipe

GLYPHS = "few_shot[width=4,queries=2]"  # 5 ways of 1 shot
TINY: dict[str, object] = {
    "problem": "sinusoid[shots=5,queries=5]", "precision": "float64", "meta_iterations": 6, "tasks": 3,
    "inner_steps": 2, "validate_every": 3, "validation_tasks": 4, "test_tasks": 4, "test_steps": (1, 3),
}  # fmt: skip


def tiny(**more: object) -> Recipe:
    """A recipe of a few iterations of a few tasks."""
    return Recipe(**TINY | more)  # pyright: ignore[reportArgumentType]
