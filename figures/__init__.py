"""Figures: tidy tables in, matplotlib figures and the report page out; never torch."""
