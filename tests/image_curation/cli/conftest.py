"""The command line in this process and as the installed command, on a terminal of 80 columns, with clean settings."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from image_curation.cli import main
from image_curation.demo.shards import DemoSample, make_demo_shards

WIDTH = 80


@dataclass(frozen=True)
class Ran:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """All that was said, however its lines were broken."""
        return " ".join((self.out + " " + self.err).split())


Command = Callable[..., Ran]


def clean_environment(home: Path) -> dict[str, str]:
    """No setting of whoever runs the tests, no network, heavy steps in the same process."""
    ours = ("IMAGE_CURATION_", "HF_", "AWS_", "DAGSTER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "COLUMNS": str(WIDTH),
        "IMAGE_CURATION_CLUSTER": "inline",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "hub"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def command(tmp_path) -> Command:
    """The installed command `image-curation`, as a user runs it; its folder is an empty one."""

    def run(*arguments: str | Path, **environment: str) -> Ran:
        done = subprocess.run(
            [Path(sys.executable).parent / "image-curation", *arguments],
            env=clean_environment(tmp_path) | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Command:
    """The same in this process: seconds quicker."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in clean_environment(tmp_path).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["image-curation", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        return Ran(code, *capsys.readouterr())

    return run


@dataclass(frozen=True)
class Demo:
    """The demo's tars, and what is planted in them."""

    folder: Path
    samples: tuple[DemoSample, ...]

    def one(self, kind: str) -> DemoSample:
        """The first sample of a planted kind."""
        return next(sample for sample in self.samples if sample.planted == kind)

    def plain(self) -> list[str]:
        """Keys of photographs that no rule drops and that nothing was made of."""
        originals = {sample.of for sample in self.samples}
        return [s.key for s in self.samples if s.planted is None and s.key not in originals]

    def pack(self, tar: Path, *keys: str) -> None:
        """Write a tar of these samples."""
        tar.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as out:
            for key in keys:
                (home,) = [sample.shard for sample in self.samples if sample.key == key]
                with tarfile.open(self.folder / f"{home}.tar") as source:
                    members = [member for member in source if _key(member.name) == key]
                    for member in members:
                        out.addfile(member, source.extractfile(member))


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    return Demo(folder, tuple(make_demo_shards(folder)))
