"""The one exception of this package."""


class RecordsError(ValueError):
    """A records directory that is missing, incomplete, damaged or not what the caller asked of it.

    The message names the file, what was found, what was expected, and what to do.
    """
