"""What can be said of deploy/ and the Dagster files without a container engine and without a cluster."""

import importlib
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import ConfigurableClassData

REPOSITORY = Path(__file__).resolve().parent.parent
DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")


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


def test_instance_of_one_machine_is_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    ref = instance(REPOSITORY / "dagster.yaml", tmp_path)
    assert check(ref.storage_data).__name__ == "LocalSqliteStorage"
    assert ref.settings["telemetry"] == {"enabled": False}


def test_instance_of_a_cluster_is_valid_and_takes_secrets_from_the_environment(tmp_path, monkeypatch):
    file = DEPLOY / "dagster.yaml"
    for name in re.findall(r"\{env: (\w+)\}", file.read_text("utf-8")):
        monkeypatch.setenv(name, "given")
    ref = instance(file, tmp_path)
    assert check(ref.storage_data).__name__ == "DagsterPostgresStorage"
    assert check(ref.run_launcher_data).__name__ == "K8sRunLauncher"
    database = yaml.safe_load(ref.storage_data.config_yaml)["postgres_db"]
    assert database["password"] == {"env": "DAGSTER_PG_PASSWORD"}


def test_check_would_see_a_wrong_key(tmp_path):
    text = (DEPLOY / "dagster.yaml").read_text("utf-8").replace("env_secrets:", "env_secret:")
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(AssertionError, match="env_secret"):
        check(instance(tmp_path / "wrong.yaml", tmp_path).run_launcher_data)


def test_workspaces_module_can_be_imported():
    (place,) = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    assert importlib.util.find_spec(place["python_module"]["module_name"])


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "values.yaml").read_text("utf-8"))
    return loaded


def test_chart_runs_our_module_in_our_image(values):
    (code,) = values["dagster-user-deployments"]["deployments"]
    flag, module = code["dagsterApiGrpcArgs"]
    assert flag == "-m"
    assert importlib.util.find_spec(module)
    assert f'"{module}"' in DOCKERFILE
    assert f"EXPOSE {code['port']}" in DOCKERFILE
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert code["image"]["tag"] == f"{version}-cpu"


def test_chart_gives_runs_the_environment_but_not_the_resources_of_the_code_location(values):
    (code,) = values["dagster-user-deployments"]["deployments"]
    assert code["includeConfigInLaunchedRuns"]["enabled"]
    assert "resources" not in code
    assert values["runLauncher"]["config"]["k8sRunLauncher"]["resources"]["limits"]


def test_chart_configures_a_run_launcher_that_dagster_accepts(values):
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    run = given["runK8sConfig"]
    config = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "resources": given["resources"],
        "run_k8s_config": {"pod_spec_config": run["podSpecConfig"], "job_spec_config": run["jobSpecConfig"]},
    }
    data = ConfigurableClassData("dagster_k8s", values["runLauncher"]["type"], yaml.safe_dump(config))
    assert check(data).__name__ == "K8sRunLauncher"


def test_no_secret_stands_in_a_file(values):
    texts = {path.name: path.read_text("utf-8") for path in DEPLOY.iterdir()}
    assert set(texts) >= {"Dockerfile", "dagster.yaml", "values.yaml", "README.md"}
    secret = r"(?i)(password|secret_access_key|token)\s*[:=]\s*(?!\{env:|\"?\$)\S"
    assert {name: found for name, text in texts.items() if (found := re.findall(secret, text))} == {}
    assert values["generatePostgresqlPasswordSecret"] is False


def copied() -> list[str]:
    """Everything that the Dockerfile copies out of the checkout."""
    lines = re.findall(r"^COPY (.*)$", DOCKERFILE, flags=re.M)
    return [source for line in lines for source in line.split()[:-1]]


def test_image_copies_what_exists_and_what_is_sent_to_the_builder():
    assert len(copied()) > 8
    assert [name for name in copied() if not (REPOSITORY / name).exists()] == []
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert sent[1] == "*"
    assert {line[1:] for line in sent if line.startswith("!")} == set(copied())


def test_image_is_set_up_by_our_script_with_real_extras_and_is_not_root():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r"^# EXTRAS is (\w+), (\w+) \(CUDA 12\) or ([\w-]+)\.", DOCKERFILE, flags=re.M)
    assert named is not None
    assert set(named.groups()) <= set(extras)
    assert './setup.sh "$EXTRAS"' in DOCKERFILE
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, flags=re.M) == ["1000"]
    assert "ENTRYPOINT" not in DOCKERFILE


def test_chart_is_of_the_pinned_dagster():
    pins = (REPOSITORY / "constraints" / "cpu.txt").read_text()
    chart = re.search(r"dagster/dagster --version (\S+)", (DEPLOY / "README.md").read_text("utf-8"))
    assert chart is not None
    assert f"\ndagster=={chart[1]}\n" in pins
