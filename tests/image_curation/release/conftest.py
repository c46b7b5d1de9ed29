"""Source shards made with plain tarfile, an index of them that shares no code with the library, a place to release."""

import hashlib
import io
import tarfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from image_curation import storage
from image_curation.ledger import Ledger
from image_curation.release.manifest import Manifest, ReleaseFacts, publish
from image_curation.release.plan import plan_shards
from image_curation.release.writer import write_release_shard

SIDECAR = pa.struct([("name", pa.string()), ("field", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),
        ("url", pa.string()),
        ("image_name", pa.string()),
        ("image_offset", pa.int64()),
        ("image_size", pa.int64()),
        ("sidecars", pa.list_(SIDECAR)),
        ("caption", pa.string()),
        ("metadata", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("aesthetic", pa.float32()),
        ("nsfw", pa.float32()),
        ("phash", pa.uint64()),
        ("decoder", pa.string()),
        ("damaged", pa.bool_()),
    ]
)
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "tif")


def picture(seed: int, kind: str = "JPEG", side: int = 24) -> bytes:
    """A small picture of noise in the given format."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()


def array_file(n: int) -> bytes:
    """An .npy file of n bytes of zeros."""
    sink = io.BytesIO()
    np.save(sink, np.zeros(n, np.uint8))
    return sink.getvalue()


@dataclass
class Source:
    """Source shards: their members by shard, where they are, and what an index would say of them."""

    root: str
    shards: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)

    def write(self, shard: str, members: list[tuple[str, bytes]]) -> None:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        storage.write_bytes(self.url(shard), sink.getvalue())
        self.shards[shard] = members

    def url(self, shard: str) -> str:
        return storage.join(self.root, f"{shard}.tar")

    def rows(self) -> pa.Table:
        """All samples that have an image, in order of (shard, key), with made-up scores."""
        found = [row for shard in self.shards for row in self._rows(shard)]
        found.sort(key=lambda row: (row["shard"], row["key"]))
        return pa.Table.from_pylist(found, SCHEMA)

    def _rows(self, shard: str) -> list[dict]:
        samples: dict[str, dict] = {}
        with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(self.url(shard)))) as tar:
            for member in tar:
                folder, slash, base = member.name.rpartition("/")
                name, _, ending = base.partition(".")
                row = samples.setdefault(folder + slash + name, {"sidecars": []})
                place = {"offset": member.offset_data, "size": member.size, "name": member.name}
                if ending.lower().rpartition(".")[2] in IMAGE_ENDINGS and "image_name" not in row:
                    content = tar.extractfile(member).read()
                    image = Image.open(io.BytesIO(content))
                    row |= {f"image_{key}": value for key, value in place.items()}
                    row |= {"sha256": hashlib.sha256(content).hexdigest(), "format": image.format}
                    row |= {"width": image.width, "height": image.height}
                else:
                    row["sidecars"].append(place | {"field": ending.lower()})
                    if ending == "txt":
                        row["caption"] = tar.extractfile(member).read().decode()
        for number, (key, row) in enumerate(samples.items()):
            row |= {"shard": shard, "key": key, "url": self.url(shard), "aesthetic": 5 + number / 10, "nsfw": None}
            row |= {"phash": 2**64 - 1 - number, "decoder": "simplejpeg", "damaged": number % 2 == 1}
        return [row for row in samples.values() if "image_name" in row]

    def original(self, shard: str, name: str) -> bytes:
        return dict(self.shards[shard])[name]


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on disk, and one in an object store (fsspec's memory file system stands in for it)."""
    return str(tmp_path) if request.param == "disk" else f"memory://release-test-{uuid.uuid4().hex}"


@pytest.fixture
def make_source() -> Callable[[str], Source]:
    """A source below a folder with all that people put into shards: two shards, nine samples with an image."""

    def make(root: str) -> Source:
        source = Source(storage.join(root, "source"))
        source.write(
            "a/000",
            [
                ("0001.jpg", picture(1)),
                ("0001.json", b'{"url": "http://x/1",  "score": 0.12345678901234567890, "twice": 1, "twice": 2}\n'),
                ("0001.txt", "ein Bär".encode()),
                ("0001.cls", b"7"),
                ("0002.JPG", picture(2)),
                ("0002.json", b"{not json"),
                ("train/deep/0003.v1.jpg", picture(3, "PNG")),
                ("train/deep/0003.seg.png", picture(33, "PNG", side=8)),
                ("train/deep/0003.my mask.NPY", array_file(700)),
                ("日本.jpeg", picture(4)),
                ("日本.empty", b""),
                ("no image here.txt", b"lonely"),
            ],
        )
        source.write(
            "b 1",
            [
                ("0001.jpg", picture(5)),
                ("0001.json", b'["a", "list"]'),
                ("0002.webp", picture(6, "WEBP")),
                ("0002.json", b'\xef\xbb\xbf{"curation": {"aesthetic": 1.5}, "n": "\\ud83d\\ude00"}'),
                ("中国.png", picture(7, "PNG")),
                ("中国.json", b" { } "),
                ("twin.jpg", picture(1)),
                ("same/../twin.gif", picture(8, "GIF")),
                ("same/../twin.__key__", b"not a key"),
            ],
        )
        return source

    return make


@pytest.fixture
def source(place: str, make_source: Callable[[str], Source]) -> Source:
    return make_source(place)


def release(rows: pa.Table, folder_url: str, max_samples: int = 4, max_bytes: int = 1 << 30) -> Manifest:
    """Plan, write and publish, as the asset does."""
    plans = plan_shards(rows, max_samples, max_bytes, "test")
    entries = [write_release_shard(plan, plan.slice(rows), folder_url) for plan in plans]
    return publish(folder_url, entries, facts(rows))


def facts(rows: pa.Table) -> ReleaseFacts:
    ledger = Ledger(read=len(rows) + 3, kept=len(rows), dropped={"low_aesthetic": 2}, failed={"not_an_image": 1})
    return ReleaseFacts(ledger=ledger, policy_hash="p" * 32, selection_hash="s" * 32, encoder={"name": "embedded"})


def contents(folder_url: str) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {file.name: storage.read_bytes(file.url) for file in storage.list_files(folder_url)}


def members(content: bytes) -> dict[str, bytes]:
    """Members of a tar by name, in order."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@dataclass
class Tools:
    """The helpers above, for test files, which cannot import from each other under importlib mode."""

    release = staticmethod(release)
    facts = staticmethod(facts)
    contents = staticmethod(contents)
    members = staticmethod(members)
    picture = staticmethod(picture)
    Source = Source


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()
