"""The comparison with peers: what is counted, and what becomes of a peer that is missing, hangs or leaves processes."""

import argparse
import importlib
import io
import tarfile
import time
from pathlib import Path
from types import ModuleType

import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture
def peer(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(PEERS)
    return importlib.import_module("peer")


@pytest.fixture
def compare(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(PEERS)
    return importlib.import_module("compare")


@pytest.fixture
def options(tmp_path) -> argparse.Namespace:
    return argparse.Namespace(
        shards=tmp_path, corrupt=tmp_path, out=tmp_path, images=10, model="vit-b-32", heads=None, nemo_path=None
    )


def test_steady_rate_leaves_out_the_start_and_the_tail(peer):
    # Four workers, 10 images a batch: a batch a second each once they have started, 9 s in, and one that ends alone.
    moments = [9.0 + n + 0.001 * worker for n in range(20) for worker in range(4)]
    alone = [29.0 + n for n in range(5)]
    rate = peer.Clock([(moment, 10) for moment in moments + alone]).steady("four", "")
    assert rate.rate == pytest.approx(40, rel=0.05)


def test_steady_rate_of_a_single_batch_is_refused(peer):
    with pytest.raises(SystemExit, match="10 images in 1 steps are too few"):
        peer.Clock([(1.0, 10)]).steady("one", "")


def test_good_keys_are_those_with_the_bytes_of_the_clean_tar(peer, tmp_path):
    clean = _tar(tmp_path / "clean" / "0.tar", {"a": b"11", "b": b"22", "c": b"33"})
    corrupt = _tar(tmp_path / "corrupt" / "0.tar", {"a": b"11", "b": b"29", "c": b""})
    assert peer.good_keys(clean.parent, [corrupt]) == {"a"}


def test_tars_are_taken_until_they_hold_the_images(peer, tmp_path):
    tars = [_tar(tmp_path / f"{n}.tar", {f"{n}a": b"1", f"{n}b": b"2"}) for n in range(3)]
    assert peer.tars(tmp_path, 3) == tars[:2]
    assert peer.keys(tars[1]) == ["1a", "1b"]


def test_peer_that_is_not_installed_is_a_row_that_says_so(compare, options, capsys):
    (result,) = compare.run("nemo-direct", compare.PEERS["nemo-direct"], options)
    assert result["notes"].startswith("not installed: ModuleNotFoundError: No module named 'nemo_curator'")
    compare.print_table({"nemo-direct": [result]})
    assert "not installed" in capsys.readouterr().out


def test_peer_that_hangs_is_stopped_and_keeps_what_it_printed(compare, options, tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text('import time\nprint(\'{"name": "x", "rate": 5.0}\', flush=True)\ntime.sleep(600)\n')
    begin = time.monotonic()
    (result,) = compare.run("hangs", compare.Peer((str(script),), 10, limit_s=3, loses="", corrupt=False), options)
    assert result["rate"] == 5.0
    assert time.monotonic() - begin < 60


def test_processes_that_a_peer_leaves_behind_are_ended(compare, options, tmp_path):
    script, pid = tmp_path / "leaves.py", tmp_path / "pid"
    script.write_text(
        "import pathlib, subprocess\n"
        "left = subprocess.Popen(['sleep', '600'], process_group=0, stdout=subprocess.DEVNULL)\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(left.pid))\n"
    )
    (result,) = compare.run("leaves", compare.Peer((str(script),), 10, limit_s=60, loses="", corrupt=False), options)
    assert "exit code 0" in result["notes"]
    deadline = time.monotonic() + 30
    while _is_running(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)  # a killed process is gone a moment later
    assert not _is_running(int(pid.read_text()))


def test_table_puts_the_fastest_first_and_says_how_much_faster_ours_is(compare, capsys):
    lost = {"good": 99, "lost": 1, "outcome": "bad images vanish"}
    compare.print_table({"plain-loop": [{"rate": 50.0}, lost], "image-curation": [{"rate": 100.0}]})
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["image-curation", "100", "1.00", "x"]
    assert second.split()[:7] == ["plain-loop", "50", "2.00", "x", "1", "of", "99"]


def _tar(path: Path, images: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, data in images.items():
            for name in (f"{key}.jpg", f"{key}.txt"):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
