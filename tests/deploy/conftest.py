"""The manifests of deploy/, and what checks them against their schemas."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
SCHEMAS = Path(__file__).parent / "schemas"

Check = Callable[[Any, str], list[str]]


def closed(node: Any) -> Any:
    """A CRD's schema that refuses unknown keys: Kubernetes drops them in silence, and with them what was meant."""
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    inner = {key: closed(value) for key, value in node.items()}
    is_object = isinstance(node.get("properties"), dict) and node.get("type") == "object"
    open_by_intent = "additionalProperties" in node or "x-kubernetes-preserve-unknown-fields" in node
    return inner | ({"additionalProperties": False} if is_object and not open_by_intent else {})


def load(name: str) -> Any:
    file = SCHEMAS / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else documents(file.with_suffix(".yaml"))[0]


@pytest.fixture(scope="session")
def wrong() -> Check:
    """What is wrong with a document by one of the schemas: `kubernetes#KIND`, `chart-values`, `compose`, or a CRD."""
    kubernetes = Resource(contents=load("kubernetes"), specification=DRAFT202012)
    registry = Registry().with_resource("kubernetes", kubernetes)

    def check(document: Any, schema: str) -> list[str]:
        name, _, kind = schema.partition("#")
        rule = {"$ref": f"kubernetes#/$defs/{kind}"} if kind else load(name)
        rule = crd(rule) if name.startswith("dask") else rule
        found = Draft202012Validator(rule, registry=registry).iter_errors(json.loads(json.dumps(document)))
        return [f"{error.json_path}: {error.message}" for error in found]

    return check


def crd(schema: Any) -> Any:
    """The schema of a custom resource, with what Kubernetes adds to every object."""
    common = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    own = {key: closed(value) for key, value in schema["properties"].items() if key not in common}
    return schema | {"properties": own | common, "additionalProperties": False}


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


@pytest.fixture(scope="session")
def manifests() -> dict[str, Any]:
    """Kind and name -> each manifest that `kubectl apply` is given."""
    files = [DEPLOY / "kubernetes" / name for name in ("settings.yaml", "dask.yaml", "network-policies.yaml")]
    return {f"{one['kind']} {one['metadata']['name']}": one for file in files for one in documents(file)}


@pytest.fixture(scope="session")
def values() -> dict[str, Any]:
    """The values that Dagster's chart is given."""
    (loaded,) = documents(DEPLOY / "kubernetes" / "values.yaml")
    return loaded


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """The compose file, its anchors resolved."""
    (loaded,) = documents(DEPLOY / "compose" / "compose.yaml")
    return loaded
