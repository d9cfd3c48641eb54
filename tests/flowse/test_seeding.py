"""Laws of seeds: equal names give equal numbers in every process, other names give other numbers."""

from __future__ import annotations

import subprocess
import sys

from flowse.seeding import derive_seed, generator


def test_a_seed_is_the_same_in_every_process() -> None:
    code = "from flowse.seeding import derive_seed; print(derive_seed(1, 'simulate', 'utt', 3))"
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert runs == {f"{derive_seed(1, 'simulate', 'utt', 3)}\n"}


def test_every_part_of_a_name_counts() -> None:
    names = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        ("a", "b", "c"),
        ("c", "ab"),
        ("1",),
        (1,),
        ("1", ""),
        ("abc", 0),
    ]
    seeds = [derive_seed(0, *name) for name in names] + [derive_seed(1, *name) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_equal_seeds_give_equal_numbers() -> None:
    assert (generator(5).normal(size=8) == generator(5).normal(size=8)).all()
