"""Fixtures that all tests share: where the real test data lies, an S3 server, and a training that is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos, hostile images, heads and golden values; the test is skipped where it is absent."""
    folder = Path(os.environ.get("IMAGE_CURATION_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set IMAGE_CURATION_TEST_DATA to the folder with photos/ and heads/")
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Callable[[Mapping[str, str]], AbstractContextManager[str]]:
    """Starts a moto server on loopback, in the environment that is given, and tells its address."""

    @contextmanager
    def running(environment: Mapping[str, str]) -> Iterator[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
        with (tmp_path_factory.mktemp("moto") / "log").open("w") as log:
            server = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=log, stderr=log)
            try:
                yield answering(f"http://127.0.0.1:{port}")
            finally:
                server.terminate()
                server.wait(20)

    return running


def answering(url: str) -> str:
    """The address of a moto server, once it answers."""
    for _ in range(150):
        try:
            urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return url
    raise RuntimeError(f"no S3 server came up at {url}")


@pytest.fixture(scope="session")
def start_and_kill() -> Callable[[Sequence[str], Path], None]:
    """Starts a training, waits for its first checkpoint, and kills all its processes at once without a warning.

    The folder of the checkpoint is a word of the command, by which torchrun's workers are found too.
    """

    def killed(words: Sequence[str], checkpoint: Path) -> None:
        with subprocess.Popen(
            words,
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            until = time.monotonic() + 120
            while not checkpoint.exists():
                assert process.poll() is None, "it ended before its first checkpoint"
                assert time.monotonic() < until
                time.sleep(0.005)
            while workers := running(str(checkpoint.parent)):
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
                process.poll()
                time.sleep(0.05)

    return killed


def running(word: str) -> list[int]:
    """Processes with this word on their command line: torchrun gives its workers sessions of their own."""
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in found if word in command_line(pid)]


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:  # it has ended
        return []
