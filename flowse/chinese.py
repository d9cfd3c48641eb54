"""Traditional Chinese characters to simplified ones, by OpenCC."""

from __future__ import annotations

import functools
from collections.abc import Callable


@functools.cache
def _converter() -> Callable[[str], str]:
    # Imported when Chinese is met: enhancement needs none of it.
    from opencc import OpenCC

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


def simplify(text: str) -> str:
    """Write traditional, or mixed, Chinese in simplified characters; anything else stays as it is.

    Raises:
        ImportError: OpenCC is not installed (it comes with the extra `[pipeline]`).
    """
    return _converter()(text)
