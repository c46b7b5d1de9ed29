"""Damage of every kind that verification must find, with the file and the reason."""

import hashlib
import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest

from image_curation import storage
from image_curation.errors import ReleaseError
from image_curation.release.manifest import MANIFEST, FileEntry, Manifest
from image_curation.release.verify import verify_release


@pytest.fixture
def folder(source, place, tools) -> str:
    url = storage.join(place, "release")
    tools.release(source.rows(), url)
    assert verify_release(url).samples == 9
    return url


def manifest_of(folder: str) -> Manifest:
    return Manifest.model_validate_json(storage.read_bytes(storage.join(folder, MANIFEST)))


def replace(folder: str, file: str, content: bytes) -> None:
    """Replace a file of the first shard and let the manifest say that this is right."""
    manifest = manifest_of(folder)
    first = manifest.shards[0]
    name = getattr(first, file).name
    storage.write_bytes(storage.join(folder, name), content)
    entry = FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    shards = (first.model_copy(update={file: entry}), *manifest.shards[1:])
    storage.write_bytes(
        storage.join(folder, MANIFEST), manifest.model_copy(update={"shards": shards}).model_dump_json().encode()
    )


def first_tar(folder: str, tools) -> dict[str, bytes]:
    return tools.members(storage.read_bytes(storage.join(folder, manifest_of(folder).shards[0].tar.name)))


def packed(members: list[tuple[str, bytes]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def test_no_release(place):
    with pytest.raises(ReleaseError, match=r"there is no whole release in .*nowhere"):
        verify_release(storage.join(place, "nowhere"))


@pytest.mark.parametrize("file", ["tar", "index", "parquet"])
def test_missing_file(folder, file):
    name = getattr(manifest_of(folder).shards[1], file).name
    storage.remove(storage.join(folder, name))
    with pytest.raises(ReleaseError, match=rf"{name}: .*cannot (open|read)"):
        verify_release(folder)


@pytest.mark.parametrize("file", ["tar", "index", "parquet"])
@pytest.mark.parametrize("where", [0.3, 0.999])
def test_one_flipped_bit(folder, file, where):
    name = getattr(manifest_of(folder).shards[1], file).name
    content = bytearray(storage.read_bytes(storage.join(folder, name)))
    content[int(len(content) * where)] ^= 1
    storage.write_bytes(storage.join(folder, name), bytes(content))
    with pytest.raises(ReleaseError, match=name):
        verify_release(folder)


def test_cut_tar(folder):
    name = manifest_of(folder).shards[0].tar.name
    content = storage.read_bytes(storage.join(folder, name))
    storage.write_bytes(storage.join(folder, name), content[: len(content) // 2])
    with pytest.raises(ReleaseError, match=rf"{name}: (it has \d+ bytes, the manifest says|ReadError)"):
        verify_release(folder)


def test_tar_with_bytes_behind_its_end(folder):
    name = manifest_of(folder).shards[0].tar.name
    content = storage.read_bytes(storage.join(folder, name))
    storage.write_bytes(storage.join(folder, name), content + bytes(100_000))
    with pytest.raises(ReleaseError, match=rf"{name}: it has {len(content) + 100_000} bytes, the manifest says"):
        verify_release(folder)


def test_tar_with_another_image(folder, tools):
    members = list(first_tar(folder, tools).items())
    members[0] = (members[0][0], bytes(len(members[0][1])))
    replace(folder, "tar", packed(members))
    with pytest.raises(ReleaseError, match=r"sample a/000/0001: the SHA-256 of its image is .*, the Parquet says"):
        verify_release(folder)


def test_tar_with_a_sample_too_few(folder, tools):
    members = [member for member in first_tar(folder, tools).items() if not member[0].startswith("a/000/0001")]
    replace(folder, "tar", packed(members))
    with pytest.raises(ReleaseError, match=r"the tar holds 2 samples, the Parquet 3 rows, the manifest says 3"):
        verify_release(folder)


def test_sample_without_json(folder, tools):
    members = [member for member in first_tar(folder, tools).items() if member[0] != "a/000/0001.json"]
    replace(folder, "tar", packed(members))
    with pytest.raises(ReleaseError, match=r"sample a/000/0001: it has no json member"):
        verify_release(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "no curation entry"),
        (b"[]", "no curation entry"),
        (b'{"curation": {"shard": "a/000", "key": "0001"}}', "no curation entry with .* KeyError: 'sha256'"),
        (json.dumps({"curation": {"shard": "x", "key": "0001", "sha256": "0"}}).encode(), "its json member names"),
    ],
)
def test_sample_with_another_json(folder, tools, text, reason):
    members = [
        (name, content if name != "a/000/0001.json" else text) for name, content in first_tar(folder, tools).items()
    ]
    replace(folder, "tar", packed(members))
    with pytest.raises(ReleaseError, match=rf"sample a/000/0001: .*{reason}"):
        verify_release(folder)


def test_field_that_comes_twice(folder, tools):
    members = list(first_tar(folder, tools).items())
    position = [name for name, _ in members].index("a/000/0001.txt")
    replace(folder, "tar", packed([*members[: position + 1], members[position], *members[position + 1 :]]))
    with pytest.raises(ReleaseError, match=r"sample a/000/0001: a field comes twice"):
        verify_release(folder)


def test_parquet_that_points_elsewhere(folder):
    content = storage.read_bytes(storage.join(folder, manifest_of(folder).shards[0].parquet.name))
    table = pq.read_table(io.BytesIO(content))
    shifted = table.set_column(
        table.schema.get_field_index("image_offset"),
        "image_offset",
        [[o + 512 for o in table["image_offset"].to_pylist()]],
    )
    sink = io.BytesIO()
    pq.write_table(shifted, sink)
    replace(folder, "parquet", sink.getvalue())
    with pytest.raises(ReleaseError, match=r"the Parquet has a/000/0001 with its image a/000/0001.jpg at 1024"):
        verify_release(folder)


def test_parquet_that_is_none(folder):
    replace(folder, "parquet", b"PAR1 no")
    with pytest.raises(ReleaseError, match=r"\.parquet: "):
        verify_release(folder)


def test_index_of_another_tar(folder):
    replace(folder, "index", b"v1.2 0\n")
    with pytest.raises(ReleaseError, match=r"\.idx: it does not point at the members of the tar"):
        verify_release(folder)


def test_a_key_in_two_shards(folder):
    manifest = manifest_of(folder)
    twice = manifest.model_copy(update={"shards": (*manifest.shards, manifest.shards[0])})
    storage.write_bytes(storage.join(folder, MANIFEST), twice.model_dump_json().encode())
    with pytest.raises(ReleaseError, match=r"the key a/000/0001 is in shard-000000-[0-9a-f]{8} too"):
        verify_release(folder)
