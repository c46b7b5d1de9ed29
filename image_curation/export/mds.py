"""A release -> shards in the MDS format (version 2), which mosaicml-streaming reads; it need not be installed.

A shard is: the number of samples and the offsets of all samples and of the end (uint32, little-endian), a JSON object
that describes the columns, and the samples. A sample is the sizes of its columns (uint32), then their bytes. Columns
are in the order of their names. `index.json`, written last, lists the shards.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from image_curation import storage
from image_curation.errors import ReleaseError
from image_curation.export import Exported
from image_curation.project import Project
from image_curation.release.manifest import read_manifest
from image_curation.training.tar_samples import Packed, list_release

COLUMNS = {"caption": "str", "image": "bytes", "json": "json", "key": "str"}
SIZE_LIMIT = 1 << 26
_INDEX = "index.json"
_CONFIG: dict[str, Any] = {
    "column_encodings": list(COLUMNS.values()),
    "column_names": list(COLUMNS),
    "column_sizes": [None] * len(COLUMNS),
    "compression": None,
    "format": "mds",
    "hashes": [],
    "size_limit": SIZE_LIMIT,
    "version": 2,
}


def export(project: Project, out: str) -> Exported:
    """Write all samples of the project's release; see `convert`."""
    return convert(project.release_url, out)


def convert(release: str, out: str, size_limit: int = SIZE_LIMIT) -> Exported:
    """Write all samples of a release as MDS: `image` (original bytes), `caption`, `json` and `key` of each.

    Args:
        release: its folder, on disk.
        out: folder or URL for `shard.00000.mds` and so on, each of about `size_limit` bytes, and `index.json`.

    Raises:
        ReleaseError: there is no whole release.
        TrainingError: a tar of it is missing.
    """
    if read_manifest(release) is None:
        raise ReleaseError(f"there is no whole release in {release}: it has no manifest. Run `image-curation curate`.")
    shards: list[dict[str, Any]] = []
    for encoded in _cut(_encoded(release), size_limit):
        name = f"shard.{len(shards):05d}.mds"
        content = _shard(encoded)
        storage.write_bytes(storage.join(out, name), content)
        raw = {"basename": name, "bytes": len(content), "hashes": {}}
        shards.append(_CONFIG | {"raw_data": raw, "samples": len(encoded), "zip_data": None})
    index = json.dumps({"version": 2, "shards": shards}, sort_keys=True)
    storage.write_bytes(storage.join(out, _INDEX), index.encode())
    return Exported(sum(shard["samples"] for shard in shards), {})


def _encoded(release: str) -> Iterator[bytes]:
    samples, files, _ = list_release(release)
    for number, group in groupby(samples, key=lambda sample: sample.file):
        with storage.open_read(files[number]) as file:
            for sample in group:
                yield _sample({name: _read(file, sample, name) for name in COLUMNS})


def _read(file: Any, sample: Packed, column: str) -> bytes:
    if column == "key":
        return sample.key.encode()
    field = {"caption": "txt"}.get(column, column)
    offset, size = sample.image if column == "image" and sample.image else sample.sidecars.get(field, (0, 0))
    file.seek(offset)
    content: bytes = file.read(size)
    return content if column == "image" else content.decode("utf-8", "replace").encode()


def _sample(columns: dict[str, bytes]) -> bytes:
    return struct.pack(f"<{len(columns)}I", *map(len, columns.values())) + b"".join(columns.values())


def _cut(samples: Iterator[bytes], size_limit: int) -> Iterator[list[bytes]]:
    """Samples in lists of no more than the limit; a larger one is alone."""
    held: list[bytes] = []
    held_bytes = 0
    for sample in samples:
        if held and held_bytes + len(sample) > size_limit:
            yield held
            held, held_bytes = [], 0
        held.append(sample)
        held_bytes += len(sample)
    if held:
        yield held


def _shard(samples: Sequence[bytes]) -> bytes:
    config = json.dumps(_CONFIG, sort_keys=True).encode()
    offsets = [4 + 4 * (len(samples) + 1) + len(config)]
    for sample in samples:
        offsets.append(offsets[-1] + len(sample))
    head = struct.pack(f"<{1 + len(offsets)}I", len(samples), *offsets)
    return head + config + b"".join(samples)
