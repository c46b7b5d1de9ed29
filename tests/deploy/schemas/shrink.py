"""Wheels that ship published schemas -> the small JSON files of this folder: no descriptions, only what is reached.

pip download --no-deps -d wheels kubernetes-validate==1.37.0 dask-kubernetes==2026.3.0 check-jsonschema==0.39.0
python tests/deploy/schemas/shrink.py wheels
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
KUBERNETES = "kubernetes_validate/kubernetes-json-schema/v1.36.0-local-strict/_definitions.json"
DASK = "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds"
COMPOSE = "check_jsonschema/builtin_schemas/vendor/compose-spec.json"
PREFIX = "#/$defs/"
ROOTS = (
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.PodSpec",
)
NOT_NEEDED = ("description", "title", "$id", "x-kubernetes-list", "x-kubernetes-patch", "x-kubernetes-group")


def main(wheels: Path) -> None:
    """Write the schemas of this folder anew."""
    kubernetes = json.loads(content(wheels, "kubernetes_validate", KUBERNETES))["$defs"]
    reached: dict[str, Any] = {}
    for root in ROOTS:
        reach(root, kubernetes, reached)
    write("kubernetes", {"$defs": {name: reached[name] for name in sorted(reached)}})
    for kind in ("daskcluster", "daskworkergroup"):
        definition = yaml.safe_load(content(wheels, "dask_kubernetes", f"{DASK}/{kind}.yaml"))
        (version,) = definition["spec"]["versions"]
        write(kind, plain(version["schema"]["openAPIV3Schema"]))
    write("compose", plain(json.loads(content(wheels, "check_jsonschema", COMPOSE))))


def content(wheels: Path, package: str, member: str) -> bytes:
    """A file of the only wheel of a package."""
    (wheel,) = wheels.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)


def reach(name: str, definitions: dict[str, Any], reached: dict[str, Any]) -> None:
    """Take over a definition and all that it refers to."""
    if name in reached:
        return
    reached[name] = plain(definitions[name])
    for other in sorted(references(definitions[name])):
        reach(other, definitions, reached)


def references(node: Any) -> set[str]:
    """Names of the definitions that a schema refers to."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].removeprefix(PREFIX)} if isinstance(node.get("$ref"), str) else set()
    return own.union(*map(references, node.values()))


def plain(node: Any, names: bool = False) -> Any:
    """A schema without words for people. `names`: the keys are names, not keywords."""
    if isinstance(node, list):
        return [plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = node if names else {k: v for k, v in node.items() if not k.startswith(NOT_NEEDED)}
    named = ("properties", "patternProperties", "$defs", "definitions")
    return {key: plain(value, names=not names and key in named) for key, value in kept.items()}


def write(name: str, schema: dict[str, Any]) -> None:
    (HERE / f"{name}.json").write_text(json.dumps(schema, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
