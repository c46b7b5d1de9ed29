"""The image: its Dockerfile's steps, run one after the other in an empty folder, make a code location that answers."""

import fnmatch
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text("utf-8")
IGNORE = (REPOSITORY / "deploy" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words) in the Dockerfile's order, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for line in joined.splitlines() if line.strip() for word, _, rest in [line.partition(" ")]]


def of(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def sent(name: str) -> bool:
    """Whether a file of the checkout is sent to the builder: the last line of .dockerignore that fits decides."""
    verdict = True
    for line in (line.strip() for line in IGNORE if line.strip() and not line.startswith("#")):
        pattern, kept = line.removeprefix("!"), line.startswith("!")
        below = fnmatch.fnmatch(name, pattern.removeprefix("**/")) or fnmatch.fnmatch(name, f"*/{pattern[3:]}/*")
        if name == pattern or name.startswith(f"{pattern}/") or pattern == "*" or (pattern[:3] == "**/" and below):
            verdict = kept
    return verdict


@dataclass
class Build:
    """A root folder in which the Dockerfile's steps are run, and what they asked of the system.

    Stand-ins only note how they were called: useradd, chown and apt-get, which would change this machine, and uv, which
    would fetch gigabytes. All other programs are real ones.
    """

    root: Path
    context: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"

    def inside(self, path: str) -> Path:
        place = self.expand(path)
        return self.root / os.path.join(self.folder, place).lstrip("/")

    def expand(self, text: str) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda name: self.environment.get(name[1], ""), text)

    def step(self, word: str, rest: str) -> None:
        steps = {"ARG": self.arg, "ENV": self.env, "WORKDIR": self.workdir, "COPY": self.copy, "RUN": self.run}
        if word in steps:
            steps[word](rest)

    def arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.environment.setdefault(name, value)

    def env(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            self.environment[name] = self.expand(value)

    def workdir(self, rest: str) -> None:
        self.folder = rest
        self.inside(".").mkdir(parents=True, exist_ok=True)

    def copy(self, rest: str) -> None:
        *sources, target = rest.split()
        for source in sources:
            for file in files_of(self.context / source):
                inner = file.relative_to(self.context / source).as_posix()
                into = target + Path(source).name if target.endswith("/") else target
                place = self.inside(into) / inner if inner != "." else self.inside(into)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)

    def run(self, rest: str) -> None:
        here = {
            name: value.replace("/opt/", f"{self.root}/opt/")
            for name, value in self.environment.items()
            if name != "HOME"
        }
        here["PATH"] = f"{self.root}/stand-ins:{here['PATH']}"
        done = subprocess.run(["sh", "-ec", rest], cwd=self.inside("."), env=here, capture_output=True, text=True)
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout}{done.stderr}"

    def called(self) -> list[str]:
        return (self.root / "called").read_text().splitlines()


def files_of(place: Path) -> list[Path]:
    return [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]


def program(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Path:
    """What is sent to the builder, and nothing else of the checkout."""
    folder = tmp_path_factory.mktemp("context")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if sent(name) and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def build(request, context, tmp_path_factory) -> Build:
    """The Dockerfile, built with EXTRAS=cpu and EXTRAS=gpu."""
    root = tmp_path_factory.mktemp("root")
    note = f'echo "$(basename "$0") $*" >> {root}/called'
    for name in ("useradd", "chown", "apt-get"):
        program(root / "stand-ins" / name, note)
    environment = {"EXTRAS": request.param, "PATH": os.environ["PATH"], "PYTHON": str(root / "stand-ins" / "python")}
    made = Build(root, context, environment)
    # `python -m venv .venv` gives the packages that are installed here, so that nothing is fetched.
    venv = [
        f'mkdir -p "$3/bin" && ln -sf {root}/stand-ins/python "$3/bin/python"',
        f'ln -sf {root}/stand-ins/uv "$3/bin/uv"',
    ]
    program(
        root / "stand-ins" / "python",
        f'case "$*" in *"-m venv "*) {" && ".join(venv)}; exit;; *"-m pip "*) {note}; exit;; esac',
        f'exec {sys.executable} "$@"',
    )
    program(root / "stand-ins" / "uv", note)
    for word, rest in instructions():
        made.step(word, rest)
    return made


def test_every_instruction_is_one_that_the_test_understands():
    known = {"ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "VOLUME", "USER", "EXPOSE", "CMD"}
    assert {word for word, _ in instructions()} == known


def test_only_what_is_copied_is_sent_to_the_builder(context):
    copied = {source for rest in of("COPY") for source in rest.split()[:-1]}
    names = {path.relative_to(context).as_posix() for path in files_of(context)}
    assert len(names) > 80
    assert [name for name in names if not any(name == one or name.startswith(f"{one}/") for one in copied)] == []
    assert not any(part in name for name in names for part in (".git/", "tests/", ".env", "__pycache__"))


def test_packages_are_installed_by_our_script_with_the_pins_of_the_set(build):
    (install,) = [line for line in build.called() if line.startswith("uv pip install")]
    extras = build.environment["EXTRAS"]
    pins = {"cpu": "constraints/cpu.txt", "gpu": "constraints/gpu-cu12.txt"}[extras]
    assert f"-e .[{extras}] -c {pins}" in install
    assert "--compile-bytecode" in install
    compiler = [line for line in build.called() if line.startswith("apt-get install") and "gcc" in line]
    assert len(compiler) == (extras == "gpu")


def test_code_is_compiled_and_the_instance_lies_where_dagster_looks(build):
    home = build.root / build.environment["DAGSTER_HOME"].lstrip("/")
    assert (home / "dagster.yaml").read_text() == (REPOSITORY / "deploy/kubernetes/dagster.yaml").read_text()
    assert list((build.inside("assets") / "__pycache__").glob("definitions.*.pyc"))
    assert [line for line in build.called() if line.startswith("chown 1000 ") and line.endswith("dagster_home")]
    assert [line for line in build.called() if line == "useradd --create-home --uid 1000 curator"]


def test_every_module_of_ours_is_among_what_was_copied(build):
    code = (
        "import sys, assets.definitions, image_curation.cli.curate\n"
        "ours = [m for n, m in sys.modules.items() if n.split('.')[0] in ('assets', 'resources', 'image_curation')]\n"
        "print(*(m.__file__ for m in ours if getattr(m, '__file__', None)), sep='\\n')"
    )
    environment = os.environ | {"PYTHONPATH": str(build.inside("."))}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, cwd=build.root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) > 40
    assert [file for file in ran.stdout.split() if not file.startswith(str(build.inside(".")))] == []


@pytest.fixture
def server(build, tmp_path) -> Iterator[tuple[subprocess.Popen, int]]:
    """What CMD starts, where only the three volumes can be written to, as in a container with a read-only root."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (command,) = of("CMD")
    words = [str(port) if word == "4000" else word for word in eval_list(command)]
    home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "DAGSTER_HOME": str(tmp_path)}
    kept = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = kept | home | {"PYTHONPATH": str(build.inside("."))}
    running = subprocess.Popen(words, cwd=build.inside("."), env=environment, start_new_session=True)
    yield running, port
    os.killpg(running.pid, signal.SIGKILL)  # it would end by itself, in half a minute or more
    running.wait()


def eval_list(text: str) -> list[str]:
    return [word.strip().strip('"') for word in text.strip("[]").split(",")]


def test_code_location_answers_from_what_was_copied_alone_and_writes_nothing_beside_it(build, server):
    before = {path: path.stat().st_mtime_ns for path in files_of(build.inside("."))}
    running, port = server
    program = Path(sys.executable).with_name("dagster")
    for _ in range(60):
        assert running.poll() is None
        asked = subprocess.run([program, "api", "grpc-health-check", "-p", str(port)], capture_output=True, text=True)
        if asked.returncode == 0:
            break
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert {path: path.stat().st_mtime_ns for path in files_of(build.inside("."))} == before


def test_image_is_not_root_bakes_no_secret_and_names_a_fixed_base():
    assert of("USER") == ["1000"]
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-\w+", of("ARG")[0])
    assert of("FROM") == ["${BASE}"]
    names = set(re.findall(r"\b([A-Z_]+)=", " ".join(of("ENV") + of("ARG"))))
    assert [name for name in names if re.search("PASSWORD|SECRET|TOKEN|KEY", name)] == []
    assert "ENTRYPOINT" not in DOCKERFILE


def test_volumes_are_what_may_be_written_to(compose):
    (volumes,) = of("VOLUME")
    code = compose["services"]["code"]
    mounted = {one.split(":")[1] for one in code["volumes"] if not one.endswith(":ro")} | set(code["tmpfs"])
    assert set(eval_list(volumes)) == mounted == {"/home/curator", "/tmp", "/opt/dagster/dagster_home"}


def test_extras_are_real_ones():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r"^# EXTRAS is (\w+), (\w+) \(CUDA 12\) or ([\w-]+)\.", DOCKERFILE, flags=re.M)
    assert named is not None
    assert set(named.groups()) <= set(extras)
