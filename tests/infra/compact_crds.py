"""Make the compact schema that test_crds.py checks manifests against, from KubeRay's published CRDs.

    python -m tests.infra.compact_crds v1.7.0 ray.io_rayclusters.yaml ray.io_rayjobs.yaml >kuberay-1.7.0.json

Descriptions and what only the server looks at are left out, parts that repeat (a pod is described four times) are
referred to, and an object that lists its properties allows no others, where Kubernetes would drop them without a word.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

_KEPT = {"type", "required", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
_LEAST = 120  # characters of a part that is worth a reference


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema as JSON Schema has it, strict about unknown properties."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {key: value for key, value in schema.items() if key in _KEPT}
    if "items" in schema:
        kept["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = _strict(schema["additionalProperties"])
    if "properties" in schema:
        kept["properties"] = {name: _strict(below) for name, below in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    return kept


def _count(schema: Any, found: Counter[str]) -> None:
    for below in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _count(below, found)
    if isinstance(schema, dict) and "properties" in schema:
        found[json.dumps(schema, sort_keys=True)] += 1


def _shared(schema: Any, found: Counter[str], parts: dict[str, Any], names: dict[str, str]) -> Any:
    if isinstance(schema, list):
        return [_shared(below, found, parts, names) for below in schema]
    if not isinstance(schema, dict):
        return schema
    text = json.dumps(schema, sort_keys=True)
    if found[text] > 1 and len(text) > _LEAST:
        if text not in names:
            names[text] = f"part{len(names)}"
            parts[names[text]] = {key: _shared(below, found, parts, names) for key, below in schema.items()}
        return {"$ref": f"#/$defs/{names[text]}"}
    return {key: _shared(below, found, parts, names) for key, below in schema.items()}


def compact(crds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schemas of version v1 by kind, and what they share under "$defs"."""
    kinds = {}
    for crd in crds:
        (version,) = (version for version in crd["spec"]["versions"] if version["name"] == "v1")
        kinds[crd["spec"]["names"]["kind"]] = _strict(version["schema"]["openAPIV3Schema"])
    found: Counter[str] = Counter()
    for schema in kinds.values():
        _count(schema, found)
    parts: dict[str, Any] = {}
    names: dict[str, str] = {}
    return {kind: _shared(schema, found, parts, names) for kind, schema in kinds.items()} | {"$defs": parts}


if __name__ == "__main__":
    version, *files = sys.argv[1:]
    comment = (
        f"Derived from the CRDs of KubeRay {version} (Apache-2.0, github.com/ray-project/kuberay); see compact_crds.py."
    )
    content = compact([yaml.safe_load(Path(file).read_text(encoding="utf-8")) for file in files])
    print(json.dumps({"$comment": comment} | content, sort_keys=True, separators=(",", ":"), indent=0))
