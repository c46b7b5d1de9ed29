"""The package as it is built, installed and set up: the wheel, the pins, the Makefile, what CI runs, the papers."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
PACKAGES = ("image_curation", "resources", "assets")
UV = Path(sys.executable).with_name("uv")


def python(code: str, *, path: Path, cwd: Path) -> str:
    """What a Python without the checkout prints, with `path` before all that is installed."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built as for a release: with the backend that pyproject.toml names, in an environment of its own."""
    if not UV.exists():
        pytest.skip(f"there is no {UV}, with which setup.sh builds; run it")
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [UV, "build", "--wheel", "--out-dir", folder, REPOSITORY], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with nothing but the wheel's content, as an installer lays it out."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [UV, "pip", "install", "-q", "--python", sys.executable, "--no-deps", "--target", folder, wheel], check=True
    )
    return folder


def test_wheel_holds_every_module_and_template_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        notices = {name for name in archive.namelist() if name.endswith(("/LICENSE", "/entry_points.txt"))}
    files = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*") if path.is_file()]
    ours = {path.relative_to(REPOSITORY).as_posix() for path in files if "__pycache__" not in path.parts}
    assert "image_curation/report/template.html.j2" in ours
    assert held == ours
    assert len(notices) == 2


def test_installed_wheel_imports_from_where_it_was_put(installed, tmp_path):
    names = [*PACKAGES, "image_curation.cli.curate", "resources.curation", "assets.definitions"]
    code = f"import importlib\nfor name in {names}: print(importlib.import_module(name).__file__)"
    places = python(code, path=installed, cwd=tmp_path).split()
    assert len(places) == len(names)
    assert [place for place in places if not place.startswith(str(installed))] == []


def test_installed_wheel_knows_its_version(installed, tmp_path):
    said = python("import image_curation; print(image_curation.__version__)", path=installed, cwd=tmp_path)
    assert said.strip() == PROJECT["project"]["version"]


def test_command_of_the_installed_wheel_runs(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [installed / "bin" / "image-curation", "--help"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "curate" in done.stdout


def test_installed_packages_fit_together():
    if not UV.exists():
        pytest.skip(f"there is no {UV}; run setup.sh")
    done = subprocess.run([UV, "pip", "check", "--python", sys.executable], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pins(name: str) -> dict[str, str]:
    """Versions by package of one set."""
    lines = (REPOSITORY / "constraints" / f"{name}.txt").read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines)


@pytest.mark.parametrize("name", ["cpu", "gpu-cu12", "gpu-cu13"])
def test_every_line_is_an_exact_pin_without_a_local_version(name):
    lines = (REPOSITORY / "constraints" / f"{name}.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .*)?", line)] == []
    assert len(pins(name)) == len(lines) > 200


def test_set_for_cpus_pulls_no_cuda_libraries_of_gigabytes():
    libraries = "cublas|cuda-|cudnn|cufft|cufile|curand|cusolver|cusparse|nccl|nvjitlink|nvshmem|nvtx"
    cuda = rf"triton|cupy.*|cudf.*|cuml.*|cuda-.*|nvidia-({libraries}).*"
    assert [name for name in pins("cpu") if re.fullmatch(cuda, name)] == []
    assert [name for name in pins("gpu-cu12") if re.fullmatch(cuda, name)]


@pytest.mark.parametrize(("name", "cuda"), [("gpu-cu12", "12"), ("gpu-cu13", "13")])
def test_set_for_gpus_is_of_one_generation(name, cuda):
    generations = {package: match[1] for package in pins(name) if (match := re.search(r"-cu(\d\d)$", package))}
    assert set(generations.values()) == {cuda}
    assert {f"cudf-cu{cuda}", f"cuml-cu{cuda}", f"cupy-cuda{cuda}x", "dask-cuda"} <= set(pins(name))


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    """Without what the `make test` that runs this test hands down to another make."""
    for name in list(os.environ):
        if name.startswith(("MAKE", "MFLAGS", "EXTRAS")):
            monkeypatch.delenv(name)
    return dict(os.environ)


def dry_run(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(["make", "-n", *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", ["demo", "dev", "test", "resolve", "lint"])
def test_make_sets_up_what_it_needs_for(target, environment):
    assert dry_run(environment, target).startswith("./setup.sh cpu,demo")


def test_make_takes_another_set_of_packages(environment):
    assert dry_run(environment, "demo", "EXTRAS=gpu").startswith("./setup.sh gpu,demo\n")


def test_make_test_lints_checks_types_and_imports_and_runs_all_tests(environment):
    commands = dry_run(environment, "test")
    for tool in ("ruff check .", "ruff format --check .", "mypy image_curation", "lint-imports", "python -m pytest"):
        assert f".venv/bin/{tool}" in commands, tool


@pytest.fixture
def ci(tmp_path) -> Path:
    """A checkout of two stand-ins, for the tests and the pins, and a browser, so that nothing is fetched."""
    for name in (".ci", "constraints", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(REPOSITORY / ".ci" / "run", tmp_path / ".ci")
    program(tmp_path / "bin" / "chromium", "true")
    program(tmp_path / "constraints" / "check.sh", "exit ${PINS:-0}")
    (tmp_path / "Makefile").write_text("test:\n\t@echo 1 test ran; exit $${TESTS:-0}\n")
    return tmp_path


def program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("tests", "pins", "passes"),
    [("0", "0", True), ("1", "0", False), ("0", "1", False), ("0", "2", True)],
    ids=["all well", "a test fails", "pins do not fit", "package index does not answer"],
)
def test_continuous_integration_fails_when_it_should(ci, environment, tests, pins, passes):
    path = f"{ci / 'bin'}{os.pathsep}{environment['PATH']}"
    environment |= {"PATH": path, "TESTS": tests, "PINS": pins}
    done = subprocess.run([ci / ".ci" / "run"], env=environment, capture_output=True, text=True)
    assert "1 test ran" in done.stdout
    assert (done.returncode == 0) == passes, done.stdout + done.stderr


@pytest.mark.parametrize("script", [".ci/run", "setup.sh", "constraints/check.sh"])
def test_script_is_executable_and_bash_can_read_it(script):
    assert os.access(REPOSITORY / script, os.X_OK)
    subprocess.run(["bash", "-n", REPOSITORY / script], check=True)


def test_licence_is_the_apache_licence_in_full():
    text = (REPOSITORY / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert len(text.splitlines()) > 190
    for words in ("Version 2.0, January 2004", "9. Accepting Warranty", "The image-curation authors"):
        assert words in text


def test_changelog_has_the_version():
    text = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    version = re.escape(PROJECT["project"]["version"])
    assert re.search(rf"^## \[{version}\]|^## \[Unreleased\]\n\nTo become {version}\b", text, flags=re.M)
