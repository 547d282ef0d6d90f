"""What extended precision does in place of each aten operation, by kind."""

from diagnostics.arithmetic.operations import (
    algebra,
    comparison,
    decomposed,
    images,
    layers,
    movement,
    pointwise,
    reduction,
)

__all__ = ["algebra", "comparison", "decomposed", "images", "layers", "movement", "pointwise", "reduction"]
