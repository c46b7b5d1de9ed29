"""Nothing on Kubernetes runs as root, writes to its image, or holds a token or a secret that it does not need."""

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
POD = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
SECRET = r"(?i)(password|secret_access_key|secret_key|token)[ \t]*[:=][ \t]*(?!\{env:|\"?\$|false|\?)[^\s#]"
CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def dask_pods(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    cluster, group = manifests["DaskCluster curation"]["spec"], manifests["DaskWorkerGroup curation-cpu"]["spec"]
    return [cluster["scheduler"]["spec"], cluster["worker"]["spec"], group["worker"]["spec"]]


def test_dask_pods_are_not_root_read_only_and_hold_no_token(manifests):
    pods = dask_pods(manifests)
    assert len(pods) == 3
    for pod in pods:
        assert pod["securityContext"] == POD
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == CONTAINER
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/home/curator", "/tmp"}
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["limits"]["memory"]


def test_dask_scheduler_has_no_credentials_and_workers_have_one_gpu_each(manifests):
    scheduler, gpu, cpu = (pod["containers"][0] for pod in dask_pods(manifests))
    assert "envFrom" not in scheduler
    assert (
        gpu["envFrom"]
        == cpu["envFrom"]
        == [{"configMapRef": {"name": "image-curation"}}, {"secretRef": {"name": "image-curation"}}]
    )
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"]
    assert gpu["args"][:4] == ["dask", "cuda", "worker", "$(DASK_SCHEDULER_ADDRESS)"]


def test_workers_declare_what_the_library_asks_for(manifests):
    from image_curation.cluster import _GPU_THREADS

    _, gpu, cpu = (" ".join(pod["containers"][0]["args"]) for pod in dask_pods(manifests))
    assert f"--nthreads {_GPU_THREADS} --resources GPU={_GPU_THREADS}" in gpu
    assert "--nthreads 1 --resources CPU=1" in cpu


def test_settings_name_the_scheduler_that_the_operator_makes(manifests):
    cluster = manifests["DaskCluster curation"]
    (port,) = [one["port"] for one in cluster["spec"]["scheduler"]["service"]["ports"] if one["name"] == "tcp-comm"]
    address = f"tcp://{cluster['metadata']['name']}-scheduler:{port}"
    assert manifests["ConfigMap image-curation"]["data"]["IMAGE_CURATION_CLUSTER"] == address


def test_settings_are_real_ones(manifests, monkeypatch):
    from image_curation.config import load_settings

    given = dict(manifests["ConfigMap image-curation"]["data"])
    assert given.pop("DAGSTER_EVENT_BATCH_SIZE") == "200"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
        assert getattr(load_settings(source="x", root="y"), name.removeprefix("IMAGE_CURATION_").lower())
    assert load_settings().cluster == "tcp://curation-scheduler:8786"


def chart_pods(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [values["dagsterWebserver"], values["dagsterDaemon"], *values["dagster-user-deployments"]["deployments"]]


def test_pods_of_the_chart_are_not_root_and_read_only(values):
    for pod in chart_pods(values):
        assert pod["podSecurityContext"] == POD
        assert pod["securityContext"] == CONTAINER
        written = {mount["mountPath"] for mount in pod["volumeMounts"]}
        assert written == {"/home/curator", "/tmp", "/opt/dagster/dagster_home"}
        assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in pod["volumeMounts"]}
    run = values["runLauncher"]["config"]["k8sRunLauncher"]
    assert run["securityContext"] == CONTAINER
    assert run["runK8sConfig"]["podSpecConfig"]["securityContext"] == POD


def test_runs_and_code_location_have_no_rights_in_kubernetes_and_only_they_have_credentials(values):
    (code,) = values["dagster-user-deployments"]["deployments"]
    run = values["runLauncher"]["config"]["k8sRunLauncher"]
    assert run["runK8sConfig"]["podSpecConfig"]["automountServiceAccountToken"] is False
    assert code["includeConfigInLaunchedRuns"] == {"enabled": False}
    assert values["dagster-user-deployments"]["rbacEnabled"] is False
    assert code["envSecrets"] == run["envSecrets"] == [{"name": "image-curation"}]
    assert [pod for pod in (values["dagsterWebserver"], values["dagsterDaemon"]) if "envSecrets" in pod] == []


def test_values_for_gpu_runs_differ_in_image_and_gpu_only(values):
    gpu = yaml.safe_load((DEPLOY / "kubernetes" / "values-gpu-runs.yaml").read_text("utf-8"))
    (code,), (usual,) = (one["dagster-user-deployments"]["deployments"] for one in (gpu, values))
    assert code | {"image": usual["image"]} == usual  # Helm takes a list whole
    assert code["image"] == usual["image"] | {"tag": usual["image"]["tag"].replace("-cpu", "-gpu")}
    assert gpu["runLauncher"]["config"]["k8sRunLauncher"]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_chart_runs_our_module_in_our_image(values):
    (code,) = values["dagster-user-deployments"]["deployments"]
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    flag, module = code["dagsterApiGrpcArgs"]
    assert flag == "-m"
    assert importlib.util.find_spec(module)
    assert f'"{module}"' in dockerfile
    assert f"EXPOSE {code['port']}" in dockerfile
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert {pod["image"]["tag"] for pod in chart_pods(values)} == {f"{version}-cpu"}


def test_chart_is_of_the_pinned_dagster():
    pins = (REPOSITORY / "constraints" / "cpu.txt").read_text()
    chart = re.search(r"dagster/dagster --version (\S+)", (DEPLOY / "README.md").read_text("utf-8"))
    assert chart is not None
    assert f"\ndagster=={chart[1]}\n" in pins


def policies(manifests: dict[str, Any]) -> dict[str, Any]:
    return {name.split()[1]: one["spec"] for name, one in manifests.items() if one["kind"] == "NetworkPolicy"}


def test_network_is_closed_but_for_what_is_named(manifests):
    rules = policies(manifests)
    assert rules["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = {name: rule for name, rule in rules.items() if name != "nobody"}
    assert len(opened) == 7
    for name, rule in opened.items():
        assert [one for one in rule.get("ingress", []) if not one.get("from")] == [], name
        assert [one for one in rule.get("egress", []) if not one.get("to")] == [], name


def test_only_webserver_and_daemon_reach_the_code_location(manifests):
    (rule,) = policies(manifests)["code-location"]["ingress"]
    (who,) = rule["from"]
    (chosen,) = who["podSelector"]["matchExpressions"]
    assert chosen["values"] == ["dagster-webserver", "dagster-daemon"]
    assert "ingress" not in policies(manifests)["runs"]


def test_policies_choose_pods_by_labels_that_they_have(manifests):
    """The labels are those of the chart, of K8sRunLauncher and of the Dask operator."""
    text = (DEPLOY / "kubernetes" / "network-policies.yaml").read_text("utf-8")
    launcher = Path(importlib.import_module("dagster_k8s.launcher").__file__).read_text("utf-8")
    (component,) = set(re.findall(r'component="(\w+)"', launcher))
    assert f"app.kubernetes.io/component: {component}" in text
    name = manifests["DaskCluster curation"]["metadata"]["name"]
    assert set(re.findall(r"dask.org/cluster-name: ([\w-]+)", text)) == {name}


def test_no_secret_stands_in_a_file():
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    texts = {path.relative_to(DEPLOY).as_posix(): path.read_text("utf-8") for path in files}
    assert len(texts) > 10
    assert {name: found for name, text in texts.items() if (found := re.findall(SECRET, text))} == {}


@pytest.mark.parametrize("text", ["password: hunter2", "AWS_SECRET_ACCESS_KEY=abc", "S3_SECRET_KEY: x"])
def test_search_for_secrets_would_find_one(text):
    assert re.findall(SECRET, text)
