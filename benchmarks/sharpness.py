"""Whether training leads to where its inner loop cannot settle: `python -m benchmarks.sharpness`.

Gradient descent of step a settles only where no curvature of the inner objective exceeds 2/a. At times along training,
of some fixed tasks at the present theta: a times the largest curvature where their loops end (Lanczos), how many
exceed 2, the loops' relative stationarity, and the cosine of the mean gradient to the exact derivative of the loop.
"""

import argparse

import torch

from diagnostics.rows import Data
from diagnostics.sweep import spectrum_at_ends
from diagnostics.training.batches import batch
from diagnostics.training.loops import run_loops
from diagnostics.training.probe import probe
from diagnostics.training.progress import Progress
from diagnostics.training.recipe import METHODS, Parts, Recipe, parts
from diagnostics.training.train import meta_train

EDGE = 2.0


def line(made: Parts, progress: Progress, data: Data) -> str:
    """One line of the table: how the tasks of `data` stand at the present theta."""
    recipe, problem = made.recipe, made.problems["train"]
    loops = run_loops(made, problem, progress.theta, data, recipe.inner_steps)
    if loops is None:
        return f"| {recipe.method} | {progress.iteration} | beyond the arithmetic's range |"
    found = spectrum_at_ends(loops.problem, loops.trajectory, (recipe.inner_steps,), iterations=60, dense_below=0)
    sharp = made.optimizer.learning_rate * found.largest[0]
    settled = loops.trajectory.stationarity[-1].median()
    cosine = float(probe(made, progress.theta, data)[0].distance.cosine[-1])
    return (
        f"| {recipe.method} | {progress.iteration} | {float(sharp.median()):.2f} | {float(sharp.max()):.2f} | "
        f"{int((sharp > EDGE).sum())} of {len(sharp)} | {float(settled):.1e} | {cosine:.3f} | "
        f"{progress.validations[-1][1]:.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="the sharpness of the inner objective along training")
    parser.add_argument("--problem", default="sinusoid[strength=50]")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=["maml", "imaml"])
    parser.add_argument("--inner-steps", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | iteration | step x largest curvature, median | greatest | beyond 2 | stationarity | cosine "
          "| validation loss |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for method in options.methods:
        recipe = Recipe(
            options.problem, method, options.inner_steps, cg_iterations=20, meta_iterations=options.iterations,
            validate_every=options.every, test_steps=(options.inner_steps,),
        )  # fmt: skip
        made = parts(recipe)
        data = batch(made.problems["train"], options.tasks, recipe.seed, "probe", 0)

        def report(progress: Progress, made: Parts = made, data: Data = data) -> None:
            if progress.iteration % options.every == 0:
                print(line(made, progress, data), flush=True)

        meta_train(made, None, report)


if __name__ == "__main__":
    main()
