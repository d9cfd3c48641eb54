"""Seeds and random generators, derived by name from a single root seed."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(root: int, *names: str | int) -> int:
    """Derive a 63-bit seed that depends only on `root` and `names`.

    Equal names give equal seeds in every process and in every order, so no result depends on which worker computed it.
    Names are length-prefixed: ("ab", "c") and ("a", "bc") differ.

    Args:
        root: The experiment's seed, or a seed derived from it.
        names: Purpose of the seed, e.g. `("simulate", utt_id, copy)`.

    Returns:
        An integer in [0, 2**63).
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (root, *names):
        encoded = f"{type(part).__name__}:{part}".encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "big") >> 1


def generator(seed: int) -> np.random.Generator:
    """Return a NumPy generator (Philox, counter-based) for `seed`."""
    return np.random.Generator(np.random.Philox(seed))
