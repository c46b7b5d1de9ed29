"""The demo's shards: the same bytes for a seed, every planted case there and as described, readable by webdataset."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image, ImageFilter, ImageOps

from image_curation.decode.limits import DecodeLimits
from image_curation.demo.shards import DemoSample, make_demo_shards
from image_curation.shards.discover import discover
from image_curation.shards.index import index_shard

NEAR_DUPLICATES = {"exact": 6, "reencoded": 6, "resized": 6, "cropped": 6, "brightened": 6, "exif_rotated": 1}
ODDITIES = {
    "truncated", "text_as_image", "empty", "no_image", "bomb", "blurred", "tiny", "dark", "png", "webp", "cmyk",
    "invalid_json", "dotted_key", "upper_case", "nested_key",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def samples(folder) -> list[DemoSample]:
    return make_demo_shards(folder)


@pytest.fixture(scope="module")
def members(folder, samples) -> dict[str, dict[str, bytes]]:
    """Key -> field -> bytes, by tarfile: the key is the name up to its last dot, as no sidecar here has two."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, field = member.name.rpartition(".")
                found.setdefault(key, {})[field] = tar.extractfile(member).read()
    return found


def the(samples: list[DemoSample], kind: str) -> DemoSample:
    (sample,) = [sample for sample in samples if sample.planted == kind]
    return sample


def image(members: dict[str, dict[str, bytes]], key: str) -> Image.Image:
    (data,) = [data for field, data in members[key].items() if field not in ("json", "txt")]
    opened = Image.open(io.BytesIO(data))
    opened.load()
    return opened


def grey(picture: Image.Image, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.asarray(picture.convert("L").resize(size), float)


def test_same_seed_same_bytes_other_seed_other_bytes(folder, samples, tmp_path):
    assert make_demo_shards(str(tmp_path / "again")) == samples
    make_demo_shards(tmp_path / "other", seed=1)
    names = [path.name for path in sorted(folder.iterdir())]
    assert names == [f"demo-{number:05}.tar" for number in range(6)]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_shards_that_are_there_already_are_not_touched(folder, samples):
    before = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    make_demo_shards(folder)
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == before


def test_every_kind_is_there(samples):
    counts = Counter(sample.planted for sample in samples)
    plain = counts.pop(None)
    assert plain >= 150
    assert counts == Counter(NEAR_DUPLICATES) + Counter(dict.fromkeys(ODDITIES, 1))


def test_returned_list_is_what_the_tars_hold(folder, samples, members):
    assert len({sample.key for sample in samples}) == len(samples)
    assert {sample.key for sample in samples} == set(members)
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            keys = [name.rpartition(".")[0] for name in tar.getnames()]
        assert list(dict.fromkeys(keys)) == [sample.key for sample in samples if sample.shard == path.stem]


def test_webdataset_reads_every_sample(folder, samples):
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    read = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    first_dot = [sample.key.removesuffix(".final") for sample in samples]  # webdataset's own rule for dotted names
    assert [item["__key__"] for item in read] == first_dot
    assert sum(sample.key.endswith(".final") for sample in samples) == 1


def test_the_index_reads_the_same_keys_and_finds_what_is_wrong(folder, samples):
    shards, _ = discover(str(folder))
    rows = [row for shard in shards for row in index_shard(shard, DecodeLimits()).table.to_pylist()]
    assert [(row["shard"], row["key"]) for row in rows] == [(sample.shard, sample.key) for sample in samples]
    status = {sample.planted: row["status"] for row, sample in zip(rows, samples, strict=True)}
    assert {kind: code for kind, code in status.items() if code != "ok"} == {
        "bomb": "too_many_pixels",
        "text_as_image": "not_an_image",
        "empty": "empty_image",
        "no_image": "missing_image",
    }


def test_captions_and_json_parse(samples, members):
    captioned = 0
    for sample in samples:
        if sample.planted == "invalid_json":
            continue
        fields = members[sample.key]
        facts = json.loads(fields["json"])
        assert (facts.get("planted"), facts.get("of")) == (sample.planted, sample.of)
        assert len(facts["window"]) == 4
        captioned += len(fields.get("txt", b"").decode()) > 10
    assert 0.8 < captioned / len(samples) < 1
    with pytest.raises(json.JSONDecodeError):
        json.loads(members[the(samples, "invalid_json").key]["json"])


@pytest.mark.parametrize("kind", NEAR_DUPLICATES)
def test_near_duplicate_shows_its_original(samples, members, kind):
    limit = {"exact": 0, "reencoded": 6, "resized": 6, "cropped": 25, "brightened": 40, "exif_rotated": 3}[kind]
    keys = {sample.key for sample in samples if sample.planted is None}
    found = [sample for sample in samples if sample.planted == kind]
    assert len(found) == NEAR_DUPLICATES[kind]
    for sample in found:
        assert sample.of in keys
        original, copy = image(members, sample.of), image(members, sample.key)
        assert np.abs(grey(original) - grey(ImageOps.exif_transpose(copy))).mean() <= limit
        assert (members[sample.of]["jpg"] == members[sample.key]["jpg"]) == (kind == "exact")


def test_what_each_near_duplicate_changes(samples, members):
    for sample in samples:
        if sample.of is None:
            continue
        original, copy = image(members, sample.of), image(members, sample.key)
        smaller = copy.width < original.width and copy.height < original.height
        assert smaller == (sample.planted in ("resized", "cropped"))
        if sample.planted == "reencoded":
            assert len(members[sample.key]["jpg"]) < len(members[sample.of]["jpg"])
        if sample.planted == "brightened":
            assert grey(copy).mean() > grey(original).mean() * 1.05
        if sample.planted == "exif_rotated":
            assert copy.getexif()[0x0112] == 6
            assert ImageOps.exif_transpose(copy).size == original.size


def test_formats_are_what_they_say(samples, members):
    assert image(members, the(samples, "png").key).format == "PNG"
    assert image(members, the(samples, "webp").key).format == "WEBP"
    cmyk = image(members, the(samples, "cmyk").key)
    assert (cmyk.format, cmyk.mode) == ("JPEG", "CMYK")
    assert next(iter(members[the(samples, "png").key])) == "png"


def test_damaged_files_are_damaged(samples, members):
    assert members[the(samples, "empty").key]["jpg"] == b""
    assert set(members[the(samples, "no_image").key]) <= {"json", "txt"}
    with pytest.raises(OSError, match="truncated"):
        image(members, the(samples, "truncated").key)
    with pytest.raises(OSError, match="cannot identify"):
        image(members, the(samples, "text_as_image").key)


def test_bomb_claims_gigapixels_in_a_small_file(samples, members):
    data = members[the(samples, "bomb").key]["png"]
    assert len(data) < 1_000
    with pytest.raises(Image.DecompressionBombError, match="3600000000 pixels"):
        Image.open(io.BytesIO(data))


def test_poor_pictures_are_poor(samples, members):
    assert image(members, the(samples, "tiny").key).size == (24, 18)
    assert grey(image(members, the(samples, "dark").key)).mean() / 255 < 0.02
    blurred = image(members, the(samples, "blurred").key)
    edges = {
        sample.key: np.asarray(image(members, sample.key).convert("L").filter(ImageFilter.FIND_EDGES), float).std()
        for sample in samples
        if sample.planted is None
    }
    rim = 1  # FIND_EDGES copies the border row
    blurred_edges = np.asarray(blurred.convert("L").filter(ImageFilter.FIND_EDGES), float)[rim:-rim, rim:-rim].std()
    assert blurred_edges < min(edges.values())


def test_odd_names(samples, members):
    assert next(iter(members[the(samples, "upper_case").key])) == "JPG"
    assert the(samples, "dotted_key").key.endswith(".final")
    assert the(samples, "nested_key").key.startswith("album/")
    for kind in ("upper_case", "dotted_key", "nested_key", "invalid_json"):
        assert image(members, the(samples, kind).key).format == "JPEG"
