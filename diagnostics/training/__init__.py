"""Meta-training: the outer loop around the instrument's own inner loop and estimators."""
