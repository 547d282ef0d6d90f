"""Arithmetics that the same code runs in."""
