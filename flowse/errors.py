"""The exceptions for what a person has to mend: a mistake of the user, and a damaged file."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend: the program prints its message as a single line, without a traceback."""


class DamagedFile(UserError):
    """A file that this project wrote is not what it was when it was written; the message names it and the mend."""
