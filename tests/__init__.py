"""Tests, in a tree that mirrors the source; `tests.cases` and `tests.conftest` are shared."""
