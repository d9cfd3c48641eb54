"""Arrays in `.npy` files, mapped into memory: a file that is damaged is one line that names it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from flowse.errors import DamagedFile

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def map_array(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...], mend: str) -> np.ndarray:
    """Map an array of numbers into memory; nothing in the file is executed.

    Args:
        path: The file, as `numpy.save` writes it.
        dtype: Its type.
        shape: Its shape; None stands for any length.
        mend: What to do if the file is damaged, for the message.

    Raises:
        DamagedFile: The file is no array, a cut one, or one of another type or shape.
        OSError: The file is missing, or its storage fails.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = _HEADERS[version]
            found, by_columns, kind = read_header(file)
            offset = file.tell()
        size = path.stat().st_size
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - numpy evaluates the header as Python text: anything may come of it
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DamagedFile(f"{path} is damaged: no array that can be read ({lines[0][:200]}); {mend}") from None
    fits = kind == dtype and len(found) == len(shape) and not (by_columns and len(found) > 1)
    if not fits or any(wanted not in (None, length) for wanted, length in zip(shape, found, strict=True)):
        wanted_shape = tuple("any" if wanted is None else wanted for wanted in shape)
        raise DamagedFile(
            f"{path} is damaged: it holds {kind} of shape {found}, not {np.dtype(dtype)} of {wanted_shape}; {mend}"
        )
    if size != offset + math.prod(found) * kind.itemsize:
        raise DamagedFile(f"{path} is damaged: its {size} bytes are not what its header says; {mend}")
    if not math.prod(found):
        return np.zeros(found, dtype)
    return np.memmap(path, dtype, "r", offset, found)
