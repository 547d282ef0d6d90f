"""Meta-gradient estimators, one a file."""
