"""Lineage both ways: what became of an utterance, and what a model was made of.

It reads records and parquet columns only, over every fingerprint that the workspace holds, finished or begun.
"""

from __future__ import annotations

import dataclasses
import json

from pipelines.commands.lineage.model import ModelLineage as ModelLineage
from pipelines.commands.lineage.model import locate as locate
from pipelines.commands.lineage.model import model_table as model_table
from pipelines.commands.lineage.model import of_model as of_model
from pipelines.commands.lineage.utterance import UtteranceLineage as UtteranceLineage
from pipelines.commands.lineage.utterance import of_utterance as of_utterance
from pipelines.commands.lineage.utterance import utterance_table as utterance_table
from pipelines.commands.lineage.workspace import Workspace as Workspace


def to_json(lineage: UtteranceLineage | ModelLineage) -> str:
    """Write a lineage for programs: all of it."""
    return json.dumps(dataclasses.asdict(lineage), indent=1, ensure_ascii=False)
