"""What exports hold, read back by byte ranges, by a reader of MDS that shares no code, and through the command line."""

import gzip
import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.errors import ConfigError, ReleaseError
from image_curation.export import export
from image_curation.export.mds import convert

ODD = rb'{"n": 5, "half": "\ud83d", "nan": NaN, "huge": 1e999, "small": 1.5}'  # Python's parser takes it
KEPT = {"a": range(0, 6), "b": range(6, 12)}


@pytest.fixture(scope="module")
def project(tmp_path_factory, workshop):
    """Twelve photos in two shards; one has no caption, one odd JSON, one is too small and goes."""
    folder = tmp_path_factory.mktemp("export")

    def members(numbers) -> dict[str, bytes]:
        found = {f"{i:02d}.jpg": workshop.photo(i, (96, 72)) for i in numbers}
        found |= {f"{i:02d}.txt": f"photo {i}, café".encode() for i in numbers if i != 3}
        found |= {f"{i:02d}.json": json.dumps({"url": f"http://x/{i}", "n": i}).encode() for i in numbers}
        return found | ({"05.json": ODD} if 5 in numbers else {})

    shards = {name: members(numbers) for name, numbers in KEPT.items()}
    shards["b"]["99.jpg"] = workshop.photo(99, (20, 20))
    workshop.source(folder / "raw", shards)
    policy = "image: {min_short_side: 64}\nduplicates: {max_phash_distance: null, min_similarity: null}\n"
    project = workshop.project(folder / "raw", folder / "curated", policy + "release: {samples_per_shard: 7}\n")
    assert workshop.run(project).ledger.kept == 12
    return project


def test_list_names_ranges_of_the_raw_tars_and_copies_no_image(project, tmp_path):
    out = tmp_path / "list.parquet"
    assert export("list", project, str(out)).written == 12
    rows = pq.read_table(out).to_pylist()
    assert [(row["shard"], row["key"]) for row in rows] == [(s, f"{i:02d}") for s in KEPT for i in KEPT[s]]
    for row in rows:
        with open(row["url"], "rb") as tar:
            tar.seek(row["image_offset"])
            assert hashlib.sha256(tar.read(row["image_size"])).hexdigest() == row["sha256"]
    assert json.loads(rows[4]["metadata"]) == {"url": "http://x/4", "n": 4}
    assert out.stat().st_size < sum(row["image_size"] for row in rows)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_documents_hold_captions_and_all_that_is_known(project, tmp_path, ending):
    out = tmp_path / f"documents.{ending}"
    exported = export("documents", project, str(out))
    assert (exported.written, exported.left_out) == (11, {"no_caption": 1})
    if ending == "parquet":
        rows = [row | {"metadata": strict(row["metadata"])} for row in pq.read_table(out).to_pylist()]
    else:
        content = gzip.decompress(out.read_bytes()) if ending.endswith("gz") else out.read_bytes()
        rows = [strict(line) for line in content.decode().splitlines()]
    assert [row["id"] for row in rows] == [f"{s}/{i:02d}" for s in KEPT for i in KEPT[s] if i != 3]
    assert rows[0]["text"] == "photo 0, café"
    assert rows[0]["metadata"]["original"] == {"url": "http://x/0", "n": 0}
    assert rows[4]["metadata"]["original"] == {"n": 5, "half": "?", "nan": None, "huge": None, "small": 1.5}
    assert rows[0]["metadata"]["width"] == 96
    assert rows[0]["metadata"]["sharpness"] > 0
    assert "aesthetic" not in rows[0]["metadata"]  # null under this encoder


def strict(text: str) -> dict:
    """Parsed as other languages do, which know no NaN."""
    return json.loads(text, parse_constant=pytest.fail)


def mds_samples(folder: Path) -> list[dict[str, bytes]]:
    """Read MDS by the description of its format."""
    samples = []
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        content = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(content) == shard["raw_data"]["bytes"]
        (count,) = struct.unpack_from("<I", content)
        assert count == shard["samples"]
        ends = struct.unpack_from(f"<{count + 1}I", content, 4)
        assert ends[-1] == len(content)
        names = shard["column_names"]
        for begin in ends[:-1]:
            sizes = struct.unpack_from(f"<{len(names)}I", content, begin)
            begin += 4 * len(names)
            sample = {}
            for name, size in zip(names, sizes, strict=True):
                sample[name], begin = content[begin : begin + size], begin + size
            samples.append(sample)
    return samples


@pytest.mark.parametrize("size_limit", [1 << 26, 20_000, 1])
def test_mds_holds_every_sample_with_its_bytes(project, tmp_path, workshop, size_limit):
    assert convert(project.release_url, str(tmp_path), size_limit).written == 12
    samples = mds_samples(tmp_path)
    assert [sample["key"].decode() for sample in samples] == [f"{i:02d}" for i in range(12)]
    for i, sample in enumerate(samples):
        assert sample["image"] == workshop.photo(i, (96, 72))
        assert sample["caption"].decode() == ("" if i == 3 else f"photo {i}, café")
        assert json.loads(sample["json"])["n"] == i
    shards = len(list(tmp_path.glob("*.mds")))
    assert shards == 1 if size_limit > 20_000 else shards > 1


def test_mosaicml_streaming_reads_the_mds(project, tmp_path, workshop):
    ensure_torchvision()  # which it imports
    streaming = pytest.importorskip("streaming", reason="mosaicml-streaming is not installed: it wants numpy < 2.2")
    convert(project.release_url, str(tmp_path), 20_000)
    dataset = streaming.LocalDataset(str(tmp_path))
    assert len(dataset) == 12
    for i in range(12):
        assert dataset[i]["image"] == workshop.photo(i, (96, 72))
        assert dataset[i]["json"]["curation"]["key"] == dataset[i]["key"] == f"{i:02d}"


def test_wrong_names_are_refused(project, tmp_path):
    with pytest.raises(ConfigError, match=r"should end with \.parquet"):
        export("list", project, str(tmp_path / "list.csv"))
    with pytest.raises(ConfigError, match=r"documents are written as \.jsonl, \.jsonl\.gz, \.parquet"):
        export("documents", project, str(tmp_path / "documents.txt"))
    with pytest.raises(ReleaseError, match="there is no whole release"):
        convert(str(tmp_path), str(tmp_path / "mds"))


def test_command_exports_and_says_what_was_left_out(project, tmp_path):
    words = [sys.executable, "-m", "image_curation", "export", str(tmp_path / "d.jsonl"), "--as", "documents"]
    done = subprocess.run([*words, "--root", project.settings.root], capture_output=True, text=True, check=True)
    assert "11 samples" in done.stdout
    assert "1 samples: no caption" in done.stdout
    wrong = subprocess.run([*words[:-1], "csv", "--root", "x"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "should be one of list, documents, mds" in wrong.stderr
