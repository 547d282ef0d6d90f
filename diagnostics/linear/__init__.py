"""Linear solvers, batched over tasks, one a file."""
