"""Fixtures that all tests share: where the real test data lies, and an S3 server."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
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
