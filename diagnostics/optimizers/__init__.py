"""Inner optimizers, one a file."""
