"""A curation that is killed and run again, or loses a worker on its way, ends as if nothing had been."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import distributed
import pytest

# The command itself, in a process that kills itself just before or after a file takes its place. The moment is a part
# of the file's path; without one, the command runs to its end.
COMMAND = """
import os, signal, sys
moment, when = sys.argv[1:3]
rename = os.replace
def replace(source, target):
    now = moment and moment in target
    if now and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from image_curation.cli import main
sys.argv = ["image-curation", "curate", *sys.argv[3:], "--cluster", "inline", "--device", "cpu"]
main()
"""

MOMENTS = [
    ("embeddings/embedded/b.parquet", "before"),  # some shards are embedded, a temporary file is left
    ("duplicate_groups/embedded/edges.parquet", "after"),  # edges without the members that they name
    (".idx", "after"),  # tar and index of the release without their Parquet
    ("release/manifest.json", "before"),  # all of the release but what makes it one
]


def command(raw: Path, root: Path, moment: str = "", when: str = "") -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-c", COMMAND, moment, when, str(raw), str(root)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300)


@pytest.mark.timeout(900)
def test_killed_at_several_moments_and_run_again_ends_like_an_undisturbed_run(tmp_path, workshop):
    photo = workshop.photo
    raw = workshop.source(
        tmp_path / "raw",
        {
            "a": {"1.jpg": photo(1), "2.jpg": photo(2), "3.jpg": photo(3)[:700]},
            "b": {"1.jpg": photo(1), "4.jpg": photo(4)},
            "c": {"5.jpg": photo(5), "6.jpg": photo(6), "6.txt": b"six"},
        },
    )
    root = tmp_path / "out"
    undisturbed = command(raw, root)
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = workshop.hashes(root)
    assert len(expected) == 3 * 5 + 3 + 4 + 2  # artifacts, duplicates, release, report, settings
    shutil.rmtree(root)

    for moment, when in MOMENTS:
        killed = command(raw, root, moment, when)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (root / "release" / "manifest.json").exists()
    left = [path for path in root.rglob(".writing-*")]
    assert left, "no kill met a file while it was written"

    again = command(raw, root)
    assert again.returncode == 0, again.stderr
    found = workshop.hashes(root)
    assert {name: value for name, value in found.items() if "/.writing-" not in name} == expected
    assert not list((root / "release").rglob(".writing-*"))


@pytest.mark.timeout(900)
def test_worker_killed_while_it_embeds_a_shard_costs_nothing(shared_data, tmp_path, workshop):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("00000", "00001", "00002", "00003"):
        (raw / f"{name}.tar").symlink_to(shared_data / "photos" / f"{name}.tar")
    undisturbed = workshop.run(workshop.project(raw, tmp_path / "undisturbed"))

    told = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:

        def on_progress(step: str, done: int, total: int, samples: int) -> None:
            told.append((step, done, total))
            if told[-1] == ("embeddings", 1, 4):
                kill_worker_at("embeddings", cluster.scheduler_address)

        project = workshop.project(raw, tmp_path / "disturbed", cluster=cluster.scheduler_address)
        result = workshop.run(project, on_progress=on_progress)

    assert [item for item in told if item[0] == "embeddings"] == [("embeddings", n, 4) for n in range(5)]
    assert result.failed_shards == {}
    assert result.ledger == undisturbed.ledger
    assert result.ledger.read > 200
    assert workshop.hashes(tmp_path / "disturbed", *workshop.HISTORY) == workshop.hashes(
        tmp_path / "undisturbed", *workshop.HISTORY
    )


def kill_worker_at(stage: str, scheduler: str) -> None:
    """Kill a worker of a cluster on this machine that is at this stage; there must be one."""
    with distributed.Client(scheduler, set_as_default=False) as client:
        processes = client.run(os.getpid)
        at_work = [worker for worker, keys in client.processing().items() if any(key.startswith(stage) for key in keys)]
        os.kill(processes[at_work[0]], signal.SIGKILL)
