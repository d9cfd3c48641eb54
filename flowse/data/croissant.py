"""Croissant metadata of a dataset: what its shards hold, in the form that dataset searches and loaders read.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, version 1.0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowse.data.parquet import schema_of
from flowse.data.shards import IndexRow
from flowse.errors import UserError
from flowse.files import sha256_file, write_text

FILE = "croissant.json"
INDEX = "index.parquet"
SUMMARY = "dataset.json"

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(folder: Path, name: str) -> dict[str, Any]:
    """Describe a dataset that simulate wrote.

    Args:
        folder: Folder of `dataset.json` and `index.parquet`.
        name: What the dataset is called.

    Returns:
        JSON-LD of a Croissant dataset: its index as a table with a field a column, its shards, its licences.

    Raises:
        UserError: The folder holds no dataset.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_bytes())
        index = folder / INDEX
        size = index.stat().st_size
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: holds no dataset: {error}; run simulate") from None
    parts = ", ".join(f"{split} {facts['mixtures']:,}" for split, facts in summary["splits"].items())
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": (
            f"Mixtures for speech enhancement: {summary['mixtures']:,} ({parts}), {summary['hours']:.2f} h, "
            f"{summary['sample_rate']} Hz, noisy and clean, with text, recipe and room."
        ),
        "version": "1.0.0",
        "identifier": summary["digest"],
        "license": _licences(summary),
        "inLanguage": sorted(
            {language for of in summary["speech"].values() for language in of["languages"] if language}
        ),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": INDEX,
                "name": INDEX,
                "contentUrl": INDEX,
                "contentSize": f"{size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": sha256_file(index),
                "description": "A row a mixture: its shard, its bytes in it, and what is known of it.",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "mixtures",
                "name": "mixtures",
                "key": {"@id": "mixtures/key"},
                "description": (
                    "shard names a tar beside the dataset; its members are <key>.clean.flac, <key>.noisy.flac and "
                    "<key>.json (WebDataset)."
                ),
                "field": [_field(column.name, str(column.type)) for column in schema_of(IndexRow)],
            }
        ],
    }


def write_croissant(folder: Path, name: str, path: Path | None = None) -> Path:
    """Write the description of a dataset to `croissant.json` beside its `dataset.json`, or to `path`; return the file.

    Raises:
        UserError: The folder holds no dataset.
    """
    target = path or folder / FILE
    write_text(target, json.dumps(croissant(folder, name), indent=1, ensure_ascii=False) + "\n")
    return target


def _licences(summary: dict[str, Any]) -> list[str]:
    """Return the licences of all recordings in the dataset; those of speech alone where the summary has no others."""
    every = {use["licence"] for use in summary.get("licences") or []}
    parts = ("speech", "noise", "rooms")
    every |= {licence for part in parts for of in summary[part].values() for licence in of["licences"]}
    return sorted(every - {""}) or ["unknown"]


def _field(column: str, kind: str) -> dict[str, Any]:
    types = {"int": "sc:Integer", "double": "sc:Float", "float": "sc:Float", "bool": "sc:Boolean"}
    return {
        "@type": "cr:Field",
        "@id": f"mixtures/{column}",
        "name": column,
        "dataType": next((name for begin, name in types.items() if kind.startswith(begin)), "sc:Text"),
        "source": {"fileObject": {"@id": INDEX}, "extract": {"column": column}},
    }
