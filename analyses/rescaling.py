"""Q2: whether rescaled data change what rounding does to a gradient, in the same inner loop."""

from analyses.analysis import Analysis, Cell, analyses
from analyses.precision import view
from analyses.rounding import studies
from analyses.settings import Settings


def cells(settings: Settings) -> list[Cell]:
    """The studies that rescale; such a study compares with its own cells of problems as they are."""
    rescaling = [study for study in studies(settings) if any(cell.spec["scaling"] != "none" for cell in study)]
    return [cell for study in rescaling for cell in study]


analyses.register("rescaling")(
    Analysis(("Q2",), "the same under rescalings of the data, each with a reference of its own", cells, view)
)
