"""Manifests keep to KubeRay's published CRDs, strictly: a key that Kubernetes would drop without a word is an error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.infra.compact_crds import compact

INFRA = Path(__file__).parents[2] / "infra"
SCHEMA = json.loads((Path(__file__).parent / "kuberay-1.7.0.json").read_text(encoding="utf-8"))


def check(document: Any, schema: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **schema})
    errors = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]
    assert errors == []


def manifests(*kinds: str) -> list[Any]:
    files = sorted(INFRA.glob("kuberay-*.yaml"))
    found = [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    return [document for document in found if document["kind"] in kinds]


def resolved(schema: Any, *keys: str) -> Any:
    """Follow properties and references down a schema."""
    for key in keys:
        schema = schema["properties"][key] if "properties" in schema else schema[key]
        while "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


@pytest.mark.parametrize("document", manifests("RayCluster", "RayJob"), ids=lambda document: document["kind"])
def test_clusters_and_jobs_have_no_key_that_kuberay_does_not_know(document: Any) -> None:
    assert document["apiVersion"] == "ray.io/v1"
    check(document, SCHEMA[document["kind"]])


def test_a_misspelt_key_is_found_wherever_it_stands() -> None:
    (document,) = manifests("RayJob")
    for path in (["spec"], ["spec", "rayClusterSpec"], ["spec", "rayClusterSpec", "headGroupSpec", "template", "spec"]):
        broken = copy.deepcopy(document)
        place = broken
        for key in path:
            place = place[key]
        place["automountServiceAcountToken"] = False
        with pytest.raises(AssertionError, match="automountServiceAcountToken"):
            check(broken, SCHEMA["RayJob"])


def test_other_pods_keep_to_the_same_description_of_a_pod() -> None:
    pod = resolved(SCHEMA["RayCluster"], "spec", "headGroupSpec", "template", "spec")
    (server,) = manifests("Deployment")
    check(server["spec"]["template"]["spec"], pod)


def test_the_compact_schema_is_strict_and_keeps_what_was_required() -> None:
    pod = {"type": "object", "properties": {"image": {"type": "string", "description": "x" * 200}}}
    crd = {
        "spec": {
            "names": {"kind": "Thing"},
            "versions": [
                {
                    "name": "v1",
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "required": ["a"],
                            "properties": {"a": pod, "b": pod, "port": {"x-kubernetes-int-or-string": True}},
                        }
                    },
                }
            ],
        }
    }
    thing = compact([crd])["Thing"]
    for good in ({"a": {"image": "i"}}, {"a": {}, "port": "http"}, {"a": {}, "port": 1}):
        jsonschema.validate(good, thing)
    for bad in ({}, {"a": {"imag": "i"}}, {"a": {}, "c": 1}, {"a": {"image": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, thing)
