"""Image data sets for few-shot episodes."""
