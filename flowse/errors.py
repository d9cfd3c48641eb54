"""The exception for mistakes of the user."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend: the program prints its message as a single line, without a traceback."""
