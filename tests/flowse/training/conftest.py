"""A small dataset for the tests of training."""

from pathlib import Path

import pytest

from tests.small_shards import make_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small dataset in real shards."""
    return make_shards(tmp_path_factory.mktemp("simulate"))
