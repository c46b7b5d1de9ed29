"""Dagster as its users run it: `dagster dev` (webserver, daemon, code server, a process a run) on its own home."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
INSTANCE = REPOSITORY / "dagster.yaml"
OURS = ("IMAGE_CURATION_", "AWS_", "FSSPEC_", "HF_", "DAGSTER_")


@dataclass
class Site:
    """A running Dagster, its home and its source."""

    home: Path
    source: str
    root: str
    environment: dict[str, str]
    url: str = ""
    process: subprocess.Popen[bytes] | None = None

    def ask(self, query: str, **variables: Any) -> Any:
        """Ask the GraphQL interface, as the pages do."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.load(answer)
        assert "errors" not in said, said
        (value,) = said["data"].values()
        assert "message" not in value, value
        return value

    def start(self) -> None:
        """Start Dagster, or start it again on the same home."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [Path(sys.executable).parent / "dagster", "dev", "-h", "127.0.0.1", "-p", port]
        log = (self.home / "dev.log").open("ab")
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        self.url = f"http://127.0.0.1:{port}"
        self.until(self._answers, "dagster dev does not answer")

    def kill(self) -> None:
        """End webserver, daemon, code server and runs at once, as a power cut does."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 300) -> Any:
        """Wait until `holds` gives something true, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.2)
        raise TimeoutError(f"{what}: {(self.home / 'dev.log').read_text()[-3000:]}")

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Dagster's records, read and written from here."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            yield instance

    def done(self, asset: str) -> set[str]:
        """Shards of which an asset is on record."""
        with self.instance() as instance:
            return set(instance.get_materialized_partitions(dg.AssetKey(asset)))

    def recorded(self, asset: str) -> dict[str, list[str]]:
        """Shard -> the runs that recorded it, in order."""
        found: dict[str, list[str]] = {}
        with self.instance() as instance:
            for run in reversed(instance.get_runs()):
                for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
                    one = entry.asset_materialization
                    if one is not None and one.asset_key == dg.AssetKey(asset):
                        found.setdefault(one.partition or "", []).append(run.run_id)
        return found

    def runs(self) -> list[dg.DagsterRun]:
        """All runs, oldest first."""
        with self.instance() as instance:
            return list(reversed(instance.get_runs()))

    def settled(self, *more: dg.DagsterRunStatus) -> bool:
        """Whether there are runs, all of which have ended."""
        runs = self.runs()
        return bool(runs) and all(run.is_finished or run.status in more for run in runs)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "dev.log").read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{self.url}/server_info", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


def impatient(config: dict[str, Any]) -> dict[str, Any]:
    """An instance that looks every second where it would look every few or more."""
    queue = {"module": "dagster", "class": "QueuedRunCoordinator", "config": {"dequeue_interval_seconds": 1}}
    config["run_monitoring"] |= {"poll_interval_seconds": 1}
    return config | {"run_coordinator": queue}


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[Callable[..., Site]]:
    """Starts Dagster with this repository's dagster.yaml over a source, on disk unless told otherwise."""
    started: list[Site] = []

    def start(settings: Mapping[str, str] = {}) -> Site:
        home = tmp_path / "dagster"
        home.mkdir()
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        (home / "dagster.yaml").write_text(yaml.safe_dump(impatient(yaml.safe_load(INSTANCE.read_text()))))
        (tmp_path / "raw").mkdir(exist_ok=True)
        places = {"IMAGE_CURATION_SOURCE": str(tmp_path / "raw"), "IMAGE_CURATION_ROOT": str(tmp_path / "curated")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        environment = (
            kept
            | places
            | {
                "DAGSTER_HOME": str(home),
                "IMAGE_CURATION_CLUSTER": "inline",
                "IMAGE_CURATION_LISTED_EVERY_S": "1",
                "OMP_NUM_THREADS": "1",
                **settings,
            }
        )
        opened = Site(home, environment["IMAGE_CURATION_SOURCE"], environment["IMAGE_CURATION_ROOT"], environment)
        started.append(opened)
        opened.start()
        return opened

    yield start
    for opened in started:
        if opened.process is not None and opened.process.poll() is None:
            opened.kill()
