"""The problems that come with the instrument, one registered builder a file."""
