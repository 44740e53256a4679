"""The one exception of this package."""


class RecordsError(ValueError):
    """A records directory is missing, incomplete or damaged, or does not fit the caller's arguments.

    The message names the file, what was found, what was expected, and what to do.
    """
