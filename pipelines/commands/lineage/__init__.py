"""Lineage both ways: what became of an utterance, and what a model was made of.

It reads records and parquet columns only, over every fingerprint that the workspace holds, finished or begun.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flowse import json_records
from flowse.errors import UserError
from flowse.outside import is_url
from pipelines.commands.lineage.holders import Holders as Holders
from pipelines.commands.lineage.holders import holders_of as holders_of
from pipelines.commands.lineage.holders import known_rows as known_rows
from pipelines.commands.lineage.model import ModelLineage as ModelLineage
from pipelines.commands.lineage.model import locate as locate
from pipelines.commands.lineage.model import model_table as model_table
from pipelines.commands.lineage.model import of_model as of_model
from pipelines.commands.lineage.utterance import UtteranceLineage as UtteranceLineage
from pipelines.commands.lineage.utterance import find_id as find_id
from pipelines.commands.lineage.utterance import of_utterance as of_utterance
from pipelines.commands.lineage.utterance import utterance_table as utterance_table
from pipelines.commands.lineage.workspace import Workspace as Workspace
from pipelines.commands.session import Session
from pipelines.corpora import forgotten
from pipelines.experiment import STAGE_NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the utterance or the model to follow, and the form of the answer."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--utterance", metavar="ID", help="id of speech, noise or impulse response; or a mixture's key")
    what.add_argument(
        "--model", metavar="DIR | URL", help="an export, a stage's folder, a copy of a model, or a model's address"
    )
    parser.add_argument("--json", action="store_true", help="all of it as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the lineage of an utterance or of a model."""
    workspace = Session.of(arguments).workspace
    if arguments.utterance:
        try:
            found = of_utterance(Workspace(workspace, STAGE_NAMES), arguments.utterance)
        except UserError:
            if (since := forgotten.since(workspace, arguments.utterance)) is None:
                raise
            print(f"{arguments.utterance}: forgotten since {since}; the workspace holds nothing of it")
            return 0
        print(to_json(found) if arguments.json else utterance_table(found))
        return 0
    model = Path(arguments.model)
    if is_url(arguments.model):
        from flowse.hub import find_model

        model = find_model(arguments.model)
    made_of = of_model(*locate(model, workspace, STAGE_NAMES))
    print(to_json(made_of) if arguments.json else model_table(made_of))
    return 0


def to_json(lineage: UtteranceLineage | ModelLineage) -> str:
    """Write a lineage for programs: all of it."""
    return json.dumps(json_records.to_json(lineage), indent=1, ensure_ascii=False)
