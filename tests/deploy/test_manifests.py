"""Every manifest of deploy/ fits its schema, and a mistake in one would be seen."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCHEMAS = {
    "ConfigMap": "kubernetes#io.k8s.api.core.v1.ConfigMap",
    "NetworkPolicy": "kubernetes#io.k8s.api.networking.v1.NetworkPolicy",
    "DaskCluster": "daskcluster",
    "DaskWorkerGroup": "daskworkergroup",
}
POD = "kubernetes#io.k8s.api.core.v1.PodSpec"


def pods(manifests: dict[str, Any]) -> dict[str, Any]:
    """Name -> the pod that the Dask operator makes."""
    cluster, group = manifests["DaskCluster curation"]["spec"], manifests["DaskWorkerGroup curation-cpu"]["spec"]
    return {
        "scheduler": cluster["scheduler"]["spec"],
        "gpu worker": cluster["worker"]["spec"],
        "cpu worker": group["worker"]["spec"],
    }


def test_every_file_is_checked(manifests):
    checked = {"settings.yaml", "dask.yaml", "network-policies.yaml", "values.yaml", "values-gpu-runs.yaml"}
    assert {path.name for path in (DEPLOY / "kubernetes").iterdir()} == checked | {"dagster.yaml"}
    assert {path.name for path in (DEPLOY / "compose").glob("*.yaml")} == {
        "compose.yaml",
        "gpu.yaml",
        "dagster.yaml",
        "workspace.yaml",
    }
    assert len(manifests) == 11


def test_manifest_fits_its_schema(manifests, wrong):
    for name, manifest in manifests.items():
        assert wrong(manifest, SCHEMAS[manifest["kind"]]) == [], name
    for name, pod in pods(manifests).items():
        assert wrong(pod, POD) == [], name


@pytest.mark.parametrize("name", ["values.yaml", "values-gpu-runs.yaml"])
def test_values_say_only_what_the_chart_knows(wrong, name):
    assert wrong(yaml.safe_load((DEPLOY / "kubernetes" / name).read_text("utf-8")), "chart-values") == []


@pytest.mark.parametrize("name", ["compose.yaml", "gpu.yaml"])
def test_compose_file_fits_the_compose_specification(wrong, name):
    assert wrong(yaml.safe_load((DEPLOY / "compose" / name).read_text("utf-8")), "compose") == []


MISTAKES = [
    ("NetworkPolicy runs", ("spec", "policyTypes"), "Egress", "is not of type"),
    ("NetworkPolicy runs", ("spec", "podSelectors"), {}, "'podSelectors' was unexpected"),
    ("NetworkPolicy runs", ("spec", "egress", 0, "ports", 0, "prot"), "TCP", "'prot' was unexpected"),
    ("ConfigMap image-curation", ("data", "IMAGE_CURATION_WORKERS"), 2, "is not of type 'string'"),
    ("DaskCluster curation", ("spec", "worker", "replicas"), "one", "is not of type 'integer'"),
    ("DaskCluster curation", ("spec", "workers"), {}, "'workers' was unexpected"),
    ("DaskCluster curation", ("spec", "worker", "spec", "toleration"), [], "'toleration' was unexpected"),
    ("DaskWorkerGroup curation-cpu", ("spec", "worker", "spec", "containers", 0, "img"), "x", "'img' was unexpected"),
]


@pytest.mark.parametrize(("name", "path", "value", "said"), MISTAKES, ids=[".".join(map(str, m[1])) for m in MISTAKES])
def test_mistake_in_a_manifest_is_seen(manifests, wrong, name, path, value, said):
    broken = changed(manifests[name], path, value)
    assert any(said in one for one in wrong(broken, SCHEMAS[broken["kind"]]))


MISTAKES_IN_VALUES = [
    (("dagsterDaemon", "runRetries", "maxRetrys"), 2, "'maxRetrys' was unexpected"),
    (("dagster-user-deployments", "deployments", 0, "securityContexts"), {}, "'securityContexts' was unexpected"),
    (("dagsterWebserver", "securityContext", "readonlyRootFilesystem"), True, "'readonlyRootFilesystem' was"),
    (("concurrency", "pools", "defaultLimit"), "1", "is not of type 'integer'"),
    (("runLauncher", "config", "k8sRunLauncher", "resources", "limit"), {}, "'limit' was unexpected"),
    (
        ("runLauncher", "config", "k8sRunLauncher", "runK8sConfig", "podSpecConfig", "toleration"),
        [],
        "'toleration' was",
    ),
    (("global", "postgresqlSecret"), "x", "'postgresqlSecret' was unexpected"),
]


@pytest.mark.parametrize(("path", "value", "said"), MISTAKES_IN_VALUES, ids=[m[0][-1] for m in MISTAKES_IN_VALUES])
def test_mistake_in_the_values_is_seen(values, wrong, path, value, said):
    assert any(said in one for one in wrong(changed(values, path, value), "chart-values"))


MISTAKES_IN_COMPOSE = [
    (("services", "code", "readonly"), True, "'readonly' was unexpected"),
    (("services", "code", "cap_drop"), "ALL", "is not of type"),
    (("services", "postgres", "healthcheck", "tests"), [], "'tests' does not match"),
    (("services", "code", "depends_on", "postgres"), {"condition": "healthy"}, "is not valid under any"),
]


@pytest.mark.parametrize(("path", "value", "said"), MISTAKES_IN_COMPOSE, ids=[m[0][-1] for m in MISTAKES_IN_COMPOSE])
def test_mistake_in_the_compose_file_is_seen(compose, wrong, path, value, said):
    assert any(said in one for one in wrong(changed(compose, path, value), "compose"))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy in which one place has another value."""
    copied = copy.deepcopy(document)
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied
