"""Analyses: settings in, tidy tables out, and what keeps them (store, manifest)."""
