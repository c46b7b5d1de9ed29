"""The Dagster instances of one machine, of compose and of Kubernetes are what Dagster accepts, and say the same."""

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import ConfigurableClassData

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
CLUSTER, COMPOSE = DEPLOY / "kubernetes" / "dagster.yaml", DEPLOY / "compose" / "dagster.yaml"


def instance(file: Path, folder: Path) -> InstanceRef:
    """The instance that Dagster makes of a dagster.yaml; its storage is not contacted."""
    shutil.copy(file, folder / "dagster.yaml")
    return InstanceRef.from_dir(str(folder))


def check(data: ConfigurableClassData) -> type:
    """The class that a part of an instance names, which accepts its configuration."""
    named: type[Any] = getattr(importlib.import_module(data.module_name), data.class_name)
    result = process_config(resolve_to_config_type(named.config_type()), yaml.safe_load(data.config_yaml))
    assert result.success, result.errors
    return named


@pytest.fixture
def environment(monkeypatch):
    """Every variable that the two instances ask for."""
    for name in re.findall(r"\{env: (\w+)\}", CLUSTER.read_text("utf-8") + COMPOSE.read_text("utf-8")):
        monkeypatch.setenv(name, "given")


def test_instance_of_one_machine_is_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    ref = instance(REPOSITORY / "dagster.yaml", tmp_path)
    assert check(ref.storage_data).__name__ == "LocalSqliteStorage"
    assert ref.settings["telemetry"] == {"enabled": False}


@pytest.mark.parametrize("file", [CLUSTER, COMPOSE], ids=["kubernetes", "compose"])
def test_instance_keeps_its_state_in_postgres_and_takes_secrets_from_the_environment(tmp_path, environment, file):
    ref = instance(file, tmp_path)
    assert check(ref.storage_data).__name__ == "DagsterPostgresStorage"
    database = yaml.safe_load(ref.storage_data.config_yaml)["postgres_db"]
    assert database["password"] == {"env": "DAGSTER_PG_PASSWORD"}
    launcher = "K8sRunLauncher" if file == CLUSTER else "DefaultRunLauncher"
    assert check(ref.run_launcher_data).__name__ == launcher


def test_check_would_see_a_wrong_key(tmp_path, environment):
    text = CLUSTER.read_text("utf-8").replace("env_secrets:", "env_secret:")
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(AssertionError, match="env_secret"):
        check(instance(tmp_path / "wrong.yaml", tmp_path).run_launcher_data)


def test_workspaces_module_can_be_imported():
    (place,) = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    assert importlib.util.find_spec(place["python_module"]["module_name"])


def test_chart_configures_a_run_launcher_that_dagster_accepts(values):
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    run = given["runK8sConfig"]
    config = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "load_incluster_config": given["loadInclusterConfig"],
        "image_pull_policy": given["imagePullPolicy"],
        "env_config_maps": [one["name"] for one in given["envConfigMaps"]],
        "env_secrets": [one["name"] for one in given["envSecrets"]],
        "volumes": given["volumes"],
        "volume_mounts": given["volumeMounts"],
        "security_context": given["securityContext"],
        "resources": given["resources"],
        "run_k8s_config": {"pod_spec_config": run["podSpecConfig"], "job_spec_config": run["jobSpecConfig"]},
    }
    data = ConfigurableClassData("dagster_k8s", values["runLauncher"]["type"], yaml.safe_dump(config))
    assert check(data).__name__ == "K8sRunLauncher"


def snake(key: str) -> str:
    return re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), key)


def snaked(node: Any) -> Any:
    """The chart's spelling -> that of dagster.yaml."""
    return {snake(key): snaked(value) for key, value in node.items()} if isinstance(node, dict) else node


def test_chart_says_what_the_instance_of_a_cluster_says(values):
    instance, daemon = yaml.safe_load(CLUSTER.read_text("utf-8")), snaked(values["dagsterDaemon"])
    limits = snaked(values["concurrency"])
    assert limits["runs"].pop("tag_concurrency_limits") == []
    assert limits == {"enabled": True} | instance["concurrency"]
    assert daemon["run_retries"] == instance["run_retries"]
    assert daemon["run_monitoring"] == instance["run_monitoring"] | {"poll_interval_seconds": 120}
    assert snaked({"retention": values["retention"]})["retention"] == {"enabled": True} | instance["retention"]
    launcher, given = instance["run_launcher"]["config"], values["runLauncher"]["config"]["k8sRunLauncher"]
    assert launcher["resources"] == given["resources"]
    assert launcher["security_context"] == given["securityContext"]
    assert (launcher["volumes"], launcher["volume_mounts"]) == (given["volumes"], given["volumeMounts"])
    pod = snaked(given["runK8sConfig"]["podSpecConfig"])
    assert launcher["run_k8s_config"]["pod_spec_config"] == pod


@pytest.mark.parametrize("key", ["concurrency", "run_retries", "telemetry"])
def test_all_instances_have_the_same_limits(key):
    files = [REPOSITORY / "dagster.yaml", COMPOSE, CLUSTER]
    first, *others = [yaml.safe_load(file.read_text("utf-8"))[key] for file in files]
    assert others == [first, first]
