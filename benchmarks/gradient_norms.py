"""How large the gradients were that a training followed: `python -m benchmarks.gradient_norms runs/maml runs/fomaml`.

Of every `checkpoint.npz` in a folder (of `gradgauge train`, or in `unfinished/` of `gradgauge run training`): the norms
of the batches' mean gradients over the outer iterations, and the share that exceeds ten times their median.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

BY = ["problem", "method", "solver", "cg_iterations", "precision", "scaling", "inner_optimizer", "inner_steps",
      "clip_norm"]  # fmt: skip
FAR = 10.0


def norms_of(path: Path) -> dict[str, object]:
    """The settings of one checkpoint, with the quantiles of its norms."""
    with np.load(path, allow_pickle=False) as arrays:
        settings, norms = json.loads(arrays["facts"].tobytes())["settings"], arrays["norms"]
    middle = float(np.median(norms))
    return {name: settings[name] for name in BY} | {
        "median": middle,
        "p99": float(np.quantile(norms, 0.99)),
        "greatest": float(norms.max()),
        "beyond_10_medians": float((norms > FAR * middle).mean()),
    }


def main() -> None:
    """Print a table, a line a setting: means over its seeds."""
    paths = [found for name in sys.argv[1:] for found in sorted(Path(name).rglob("checkpoint.npz"))]
    if not paths:
        sys.exit("gradient_norms: expected folders with a checkpoint.npz of training, found none")
    settings = pd.DataFrame([norms_of(path) for path in paths]).groupby(BY)
    settings.mean().assign(seeds=settings.size()).to_csv(sys.stdout, float_format="%.4g")


if __name__ == "__main__":
    main()
