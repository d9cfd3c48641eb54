"""A tiny cache of clips, shared by the tests of the Whisper recipe."""

from pathlib import Path

import pytest

from pipelines.pretrain.whisper import cache
from pipelines.pretrain.whisper.corpus import Corpus


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    cache.render(folder, audio=None, seed=0, processes=1, clips={"en": 6, "zh": 6, "de": 6})
    return folder


@pytest.fixture(scope="session")
def corpus(clips: Path) -> Corpus:
    return Corpus(clips)
