"""`image-curation curate`, killed at chosen moments: the same command again ends as if nothing had been."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

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
    assert len(expected) == 3 * 5 + 2 + 4 + 2  # artifacts, duplicates, release, report, settings
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
