"""Conversion of traditional Chinese characters to simplified ones with OpenCC."""

from __future__ import annotations

import functools
from collections.abc import Callable


@functools.cache
def _converter() -> Callable[[str], str]:
    # OpenCC is imported only for Chinese text: enhancement does not need it.
    from opencc import OpenCC

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


def simplify(text: str) -> str:
    """Replace traditional Chinese characters by simplified ones; all other characters stay as they are.

    Raises:
        ImportError: OpenCC is not installed (the extra `[pipeline]` installs it).
    """
    return _converter()(text)
