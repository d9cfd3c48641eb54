"""The one exception for mistakes that the person at the keyboard can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: one clear line, never a traceback."""
