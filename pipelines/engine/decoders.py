"""Audio for a worker with a GPU, decoded by tasks on whatever CPUs of the cluster are free, a bounded amount ahead.

One core decodes Opus some hundred times as fast as it is spoken, and a GPU labels it faster: a worker that decodes for
itself waits for its audio. Here up to twice `count` pieces of a minute are being decoded, or wait to be used, anywhere.
"""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.data.audio_ahead import BATCH_S, Block, pieces, read_ahead, read_piece
from flowse.data.manifest import Utterance
from flowse.whisper.windows import SAMPLE_RATE
from pipelines.engine.shipping import Origin, Parcel

_PATIENCE_S = 30.0  # after so long without a free core in the cluster, a worker decodes for itself
_ALONE_S = 600.0  # for so long, before it asks again


@dataclass
class Decoders:
    """Reads the audio of rows by Ray tasks; keeps `flowse.data.audio_ahead.Reader`.

    Attributes:
        count: Tasks of one core that decode for one worker at a time.
        roots: The folders of the corpora, pickled as a `Parcel`: each machine opens it to its own.
        alone_until: The worker decodes for itself until then, by its monotonic clock.
    """

    count: int
    roots: bytes
    alone_until: float = 0.0

    @classmethod
    def of(cls, count: int, roots: Mapping[str, Path], workspace: Path) -> Decoders:
        """Describe decoders for workers of this driver.

        Args:
            count: As the attribute.
            roots: Folder of every corpus here.
            workspace: The workspace, or a folder in it.
        """
        return cls(count, pickle.dumps(Parcel.of(dict(roots), Origin.of(workspace))))

    def __call__(self, rows: Sequence[Utterance], roots: Mapping[str, Path]) -> Iterator[list[Block]]:
        """Yield the rows' audio in batches of at most `BATCH_S` seconds, of less where the rest is not decoded yet."""
        shared, long = pieces(rows)
        batch: list[Block] = []
        samples = 0
        for block in self._decoded(rows, roots, shared):
            if block is None:  # a GPU that has something to do meanwhile does not wait
                if batch:
                    yield batch
                    batch, samples = [], 0
                continue
            if batch and samples + len(block.waveform) > BATCH_S * SAMPLE_RATE:
                yield batch
                batch, samples = [], 0
            batch.append(block)
            samples += len(block.waveform)
        if batch:
            yield batch
        for batch in read_ahead([rows[index] for index in long], roots):
            yield [dataclasses.replace(block, index=long[block.index]) for block in batch]

    def _decoded(
        self, rows: Sequence[Utterance], roots: Mapping[str, Path], shared: Sequence[Sequence[int]]
    ) -> Iterator[Block | None]:
        """Yield the blocks of all pieces in their order, and None where the next one has to be waited for."""
        import ray
        from ray.exceptions import RayError

        task = ray.remote(decode).options(num_cpus=1, scheduling_strategy="SPREAD", max_retries=3)
        ahead: deque[tuple[Sequence[int], Any]] = deque()
        waiting = iter(shared)
        while True:
            is_alone = time.monotonic() < self.alone_until
            for piece in itertools.islice(waiting, 2 * self.count - len(ahead)):
                ahead.append((piece, None if is_alone else task.remote([rows[index] for index in piece], self.roots)))
            if not ahead:
                return
            piece, reference = ahead.popleft()
            blocks = None
            if reference is not None and not is_alone and not ray.wait([reference], timeout=0)[0]:
                yield None
            if reference is not None and not is_alone and ray.wait([reference], timeout=_PATIENCE_S)[0]:
                with suppress(RayError):  # its node is lost, or does not have this code
                    blocks = ray.get(reference)
            if blocks is None:
                if reference is not None:
                    self.alone_until = time.monotonic() + _ALONE_S
                    ray.cancel(reference)
                blocks = read_piece([rows[index] for index in piece], roots)
            for block in blocks:
                yield dataclasses.replace(block, index=piece[block.index])


def decode(rows: Sequence[Utterance], roots: bytes) -> list[Block]:
    """Read rows that are no longer than a batch, on the machine of this process.

    Args:
        rows: The rows.
        roots: As of `Decoders`.
    """
    parcel: Parcel = pickle.loads(roots)
    return read_piece(rows, parcel.open())
