"""Exported models by their address in a store: `flowse enhance --model s3://bucket/workspace/export/<fingerprint>/model`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flowse.errors import UserError
from flowse.export import CONFIG
from flowse.files import atomic_folder
from flowse.names import why_unsafe
from pipelines.engine.mirror import local_name
from pipelines.engine.scratch import node_folder
from pipelines.engine.store import Store


def find_model(address: str) -> Path:
    """Copy a model here, unless it is here already; return its folder.

    `flowse enhance --model` comes here through the entry points "flowse.models". The names of large files in
    a workspace end with their hash; the copy has the model's own names.

    Args:
        address: URL of the model's folder, or of the output of `export` in which it lies.

    Raises:
        UserError: It is no address of a store, the store does not answer, or there is no model.
    """
    store = Store(address)
    store.require_answer()
    objects = store.list()
    names = {local_name(name): name for name in sorted(objects, key=lambda name: objects[name].modified_ns)}
    inside = next((prefix for prefix in ("", "model/") if f"{prefix}{CONFIG}" in names), None)
    if inside is None:
        raise UserError(
            f"{address}: no model lies there: there is no {CONFIG}; in a workspace it is export/<fingerprint>/model, "
            "and `python -m pipelines status` shows the fingerprint"
        )
    wanted = {path: name for name in names if name.startswith(inside) and not why_unsafe(path := name[len(inside) :])}
    state = "\n".join(f"{name} {objects[names[wanted[name]]].etag}" for name in sorted(wanted))
    folder = node_folder("") / "models" / hashlib.sha256(f"{store.url}\n{state}".encode()).hexdigest()[:32]
    if not folder.is_dir():
        with atomic_folder(folder, keep_existing=True) as temporary:
            store.fetch_all((names[name], temporary / path) for path, name in wanted.items())
    return folder
