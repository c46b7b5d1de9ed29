"""Fetching a head from a real web server on loopback: whole and right, or not at all."""

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from image_curation.errors import NoHead, WeightsError
from image_curation.heads import CLIP_B_32, HEADS, HeadFile, fetch_head, load_head
from image_curation.heads.fetch import fetch_file

CONTENT = bytes(range(256)) * 1000
FILE = HeadFile(
    "test-head", "a+b.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "someone/heads", "0" * 40, "MIT"
)


class Server:
    """Serves a folder, and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                asked.append(self.path)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.http.handle_error = lambda *_: None  # a client that has seen enough hangs up; that is no fault
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(folder)
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_fetched_head_lies_in_the_cache_and_is_loaded_from_there(server, heads_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("IMAGE_CURATION_HEADS", raising=False)
    file = HEADS["aesthetic", CLIP_B_32][0]
    (server.folder / "mirrored.pth").write_bytes((heads_data / "aesthetic" / file.file).read_bytes())
    with pytest.raises(NoHead):
        load_head("aesthetic", CLIP_B_32)
    path = fetch_head("aesthetic", CLIP_B_32, url=f"{server.url}/mirrored.pth")
    assert path == str(tmp_path / "home" / ".cache" / "image-curation" / "heads" / file.file)
    assert load_head("aesthetic", CLIP_B_32).name == file.name


def test_file_that_is_there_and_right_is_not_fetched_again(server, tmp_path):
    (server.folder / "x").write_bytes(CONTENT)
    target = fetch_file(FILE, tmp_path / "heads", f"{server.url}/x")
    assert target.read_bytes() == CONTENT
    assert server.asked == ["/x"]
    assert fetch_file(FILE, tmp_path / "heads", f"{server.url}/x") == target
    assert server.asked == ["/x"]


def test_damaged_file_that_is_there_is_replaced(server, tmp_path):
    (server.folder / "x").write_bytes(CONTENT)
    (tmp_path / FILE.file).write_bytes(CONTENT[:-1])
    assert fetch_file(FILE, tmp_path, f"{server.url}/x").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "served", [CONTENT[:-1], CONTENT + b"x", CONTENT[::-1], b""], ids=["short", "long", "other", "empty"]
)
def test_other_bytes_are_refused_and_nothing_is_written(server, tmp_path, served):
    (server.folder / "x").write_bytes(served)
    with pytest.raises(WeightsError) as error:
        fetch_file(FILE, tmp_path / "heads", f"{server.url}/x")
    digest = hashlib.sha256(served).hexdigest()
    assert f"/x serves another file: its sha256 is {digest}, expected {FILE.sha256}" in str(error.value)
    assert not (tmp_path / "heads").exists()


def test_endless_file_is_cut_off(server, tmp_path):
    (server.folder / "x").write_bytes(CONTENT * 40)
    with pytest.raises(WeightsError) as error:
        fetch_file(FILE, tmp_path / "heads", f"{server.url}/x")
    read = (CONTENT * 2)[: len(CONTENT) + 1]
    assert hashlib.sha256(read).hexdigest() in str(error.value)


@pytest.mark.parametrize("place", ["{url}/absent", "http://127.0.0.1:1/x", "not a url"])
def test_place_that_cannot_be_reached_says_what_to_do_without_a_network(server, tmp_path, place):
    place = place.format(url=server.url)
    with pytest.raises(WeightsError, match=r"Cannot fetch a\+b.bin from .* copy the file to .*/heads by hand") as error:
        fetch_file(FILE, tmp_path / "heads", place)
    assert place in str(error.value)
    assert not (tmp_path / "heads").exists()


def test_head_that_does_not_exist_is_not_fetched():
    with pytest.raises(NoHead, match="There is no nsfw head for vectors of elsewhere"):
        fetch_head("nsfw", "elsewhere")
