"""What README.md and CONTRIBUTING.md say is true: commands run or at least exist, paths too, tables are complete."""

import ast
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer

from image_curation import cli
from image_curation.demo.shards import make_demo_shards
from image_curation.encoders import PROFILES
from image_curation.policy import policy_yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
README = (REPOSITORY / "README.md").read_text("utf-8")
# They need a network, a card or minutes, or say only what the environment is to be.
NOT_RUN = ("s3://", "image-curation train", "clip-vit", "doctor", "make ", "setup.sh", "source ", "export ")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def commands(text: str) -> list[str]:
    """Every shell command of a document, without its comment."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"\s+#.*", "", line).strip())]


@pytest.fixture
def environment(monkeypatch, tmp_path) -> dict[str, str]:
    """The one that a user has, with .venv active and no settings; in the folder of the test."""
    for name in list(os.environ):
        if name.startswith(("IMAGE_CURATION_", "AWS_", "DAGSTER_", "MAKE", "MFLAGS", "EXTRAS")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "IMAGE_CURATION_CLUSTER": "inline", "COLUMNS": "200"}


def run(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(["bash", "-euc", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def commands_by_name(monkeypatch, capsys) -> dict[str, Any]:
    """The commands with their parsers; `main` registers them."""
    monkeypatch.setattr(sys, "argv", ["image-curation", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    capsys.readouterr()
    return typer.main.get_group(cli.app).commands


def test_local_commands_run_as_they_stand_and_the_ledger_is_the_one_shown(environment):
    make_demo_shards(".demo/raw")
    local = [command for command in commands(README) if not any(word in command for word in NOT_RUN)]
    assert len(local) >= 6
    said = {command: run(command, environment) for command in local}
    (ledger,) = [block for block in blocks(README, "text") if "kept + dropped + failed" in block]
    rows = [line for line in ledger.splitlines() if "│" in line]
    assert len(rows) >= 10
    curated = said["image-curation curate .demo/raw curated"]
    assert [row for row in rows if row not in curated] == []


def test_python_runs_and_duckdb_reads_what_it_made(environment, capfd):
    make_demo_shards(".demo/raw")
    (python,) = blocks(README, "python")
    said = run(f"python - <<'END'\n{python}\nEND", environment)
    assert "208 read = 170 kept + 33 dropped + 5 failed {}" in said
    (query,) = blocks(README, "sql")
    found = duckdb.sql(query)
    assert len(found) == 33
    assert found.columns == ["shard", "key", "reason", "detail", "width", "height", "sharpness"]


def test_s3_commands_run_against_a_server(environment, tmp_path):
    boto3 = pytest.importorskip("boto3")
    if shutil.which("moto_server", path=environment["PATH"]) is None:
        pytest.skip("moto's server is not installed")
    (block,) = [block for block in blocks(README, "bash") if "AWS_ACCESS_KEY_ID=..." in block]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    script = block.replace("https://s3.example.com", address)
    assert script != block
    make_demo_shards("raw")
    with (tmp_path / "moto.log").open("wb") as log:
        server = subprocess.Popen(["moto_server", "-H", "127.0.0.1", "-p", str(port)], env=environment, stderr=log)
    try:
        wait_for(port)
        keys = {"aws_access_key_id": "...", "aws_secret_access_key": "..."}
        store = boto3.client("s3", endpoint_url=address, region_name="eu-west-1", **keys)
        store.create_bucket(Bucket="my-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        store.upload_file("raw/demo-00000.tar", "my-bucket", "raw/demo-00000.tar")
        assert "35 read" in run(script, environment)
        names = {item["Key"] for item in store.list_objects_v2(Bucket="my-bucket")["Contents"]}
        assert {"curated/release/manifest.json", "curated/report/report.html"} <= names
    finally:
        server.terminate()
        server.wait(20)


def wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("moto's server did not start")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_exists_with_its_options(document, commands_by_name, environment):
    text = (REPOSITORY / document).read_text("utf-8")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    checked = 0
    for command in commands(text):
        words = shlex.split(command.split(">")[0])
        if words[0] == "image-curation":
            commands_by_name[words[1]].make_context(words[1], words[2:])
        elif words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=REPOSITORY, env=environment, check=True, capture_output=True)
        elif words[0] == "./setup.sh":
            assert set(words[1].split(",")) <= set(extras)
        elif words[0] == "python":
            assert words[1:3] == ["-m", "pytest"]
            assert (REPOSITORY / words[3]).exists()
        else:
            assert words[0] in ("export", "source"), f"nothing is known of: {command}"
        checked += 1
    assert checked


def test_every_command_of_the_command_line_is_told(commands_by_name):
    assert len(commands_by_name) >= 8
    assert [name for name in commands_by_name if f"image-curation {name}" not in README] == []


def test_every_target_of_make_is_real():
    targets = re.findall(r"`make (\w+)", README + (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"))
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), flags=re.M)
    assert phony is not None
    assert targets
    assert set(targets) <= set(phony[1].split())


@pytest.mark.parametrize("document", [*DOCUMENTS, "deploy/README.md"])
def test_every_path_exists(document):
    text = (REPOSITORY / document).read_text("utf-8")
    quoted = re.findall(r"`([\w./-]+)`", text) + re.findall(r"\]\((?!http)([^)#]+)\)", text)
    trees = re.findall(r"^([\w./-]+) {2,}", "".join(blocks(text, "text")), flags=re.M)
    tops = {path.name for path in REPOSITORY.iterdir()}
    ours = [
        *trees,
        *(name for name in quoted if name.split("/")[0] in tops or re.search(r"\w\.(md|py|toml|sh|png)$", name)),
    ]
    assert ours
    here = (REPOSITORY, (REPOSITORY / document).parent)
    assert [name for name in ours if not any((folder / name).exists() for folder in here)] == []


def test_pictures_are_small():
    for name in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (REPOSITORY / name).stat().st_size < 200_000, name


def test_every_status_is_in_the_table():
    table = README[README.index("| status | when |") : README.index("The limits are settings")]
    told = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.M))
    assert told == statuses()


def statuses() -> set[str]:
    """Status codes in the code: first arguments of ImageError, and strings given as `status`."""
    found: set[str] = set()
    for path in (REPOSITORY / "image_curation").rglob("*.py"):
        for call in [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]:
            name = getattr(call.func, "id", "")
            given = [keyword.value for keyword in call.keywords if keyword.arg == "status"]
            given += call.args[:1] if name == "ImageError" else call.args[2:3] if name == "_ImageFacts" else []
            texts = [node for value in given for node in ast.walk(value) if isinstance(node, ast.Constant)]
            found |= {text.value for text in texts if isinstance(text.value, str)}
    return found - {"ok"}


def test_every_encoder_is_in_the_table_with_its_size_and_threshold():
    table = re.findall(r"^\| `([\w:/-]+)` \| (\d*).*?\| ([\d.]+) \|", README, flags=re.M)
    told = {name: (int(size), float(threshold)) for name, size, threshold in table if size}
    assert told == {name: (one.dim, one.duplicate_similarity) for name, one in PROFILES.items()}
    assert {name.partition(":")[0] for name, size, _ in table if not size} == {"open_clip", "timm", "onnx"}


def test_policy_excerpt_is_as_printed():
    (excerpt,) = blocks(README, "yaml")
    assert [line for line in excerpt.splitlines() if line not in policy_yaml().splitlines()] == []
