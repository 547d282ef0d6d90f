"""Measuring by workers: who does what, the link to them, and where they are."""
