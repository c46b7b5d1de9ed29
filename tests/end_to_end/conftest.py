"""The demo's tars, a clean environment for commands, and the commands themselves."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from image_curation.demo.shards import DemoSample, make_demo_shards

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("IMAGE_CURATION_", "AWS_", "FSSPEC_", "HF_", "DAGSTER_")


@dataclass(frozen=True)
class Demo:
    """The demo's tars, and what is in them."""

    folder: Path
    samples: tuple[DemoSample, ...]


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    return Demo(folder, tuple(make_demo_shards(folder)))


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """The environment without any setting or credential of whoever runs the tests; no network is asked for weights."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@pytest.fixture(scope="session")
def run_command():
    """Run a program of the virtual environment in the repository, and give what it said."""

    def run(environment: dict[str, str], program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / program, *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
