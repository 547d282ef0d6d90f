"""The instrument: problems, the inner loop, meta-gradient estimators, linear solvers, references and metrics."""
