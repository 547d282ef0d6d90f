"""The refusal of a data set that cannot be used as it is."""


class BadData(ValueError):
    """Files that are missing, damaged, unsafe or not what they claim to be: what was expected, found, and what to do.

    Like every `ValueError` here it is one line; it is told apart because the data are at fault, not the settings.
    """
