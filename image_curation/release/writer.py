"""A planned shard and its source tars -> a tar, a Parquet table of its samples, and a DALI index, each whole or absent.

Bytes are copied by offset from the source tars. The Parquet file is written last and names the plan that it was made by
and the hashes of the other two: a shard for which it is there is complete and is not written again.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from image_curation import storage
from image_curation.errors import ReleaseError, StorageError
from image_curation.release.keys import unique_field
from image_curation.release.manifest import IMAGES, FileEntries, FileEntry
from image_curation.release.plan import ShardPlan, extra_columns
from image_curation.release.sample import UNREADABLE_JSON, Member, Sample, merge_json, samples_of
from image_curation.release.source import pieces, read_pieces
from image_curation.release.tarball import TarWriter

_CERTIFICATE = b"image_curation.release"

Component = tuple[str, int, int, str]  # field, offset and size in the tar, member name: as in an index line


def write_release_shard(plan: ShardPlan, rows: pa.Table, folder_url: str) -> FileEntries:
    """Write one shard of a release, unless it is already there.

    Takes and returns plain values, so it can run anywhere. Needs some 80 MB and room for the largest JSON sidecar.

    Args:
        plan: what to write.
        rows: the shard's own rows, `plan.slice(rows)` of the table that was planned.
        folder_url: the release's folder; the files go to `images/` below it.

    Raises:
        ReleaseError: the source tars are no longer as they were indexed; nothing is written then.
    """
    if rows.num_rows != len(plan.keys):
        raise ReleaseError(
            f"{plan.name} got {rows.num_rows} rows, but is planned with {len(plan.keys)}: pass plan.slice(rows)"
        )
    return _already_written(plan, folder_url) or _write(plan, rows, folder_url)


def _write(plan: ShardPlan, rows: pa.Table, folder_url: str) -> FileEntries:
    samples = list(samples_of(plan.keys, rows))
    with storage.write_atomic(_url(plan, folder_url, "tar")) as file, TarWriter(file) as tar:
        contents = read_pieces(piece for s in samples for m in s.copied() for piece in pieces(m.url, m.offset, m.size))
        written = [_copy(tar, sample, contents) for sample in samples]
        sha256 = tar.finish()
    tar_entry = FileEntry(name=_name(plan, "tar"), bytes=tar.bytes, sha256=sha256)
    index_entry = _put(plan, folder_url, "idx", _dali_index(written))
    certificate: dict[str, Any] = {
        "plan_hash": plan.plan_hash,
        "samples": len(samples),
        "tar": tar_entry.model_dump(),
        "index": index_entry.model_dump(),
    }
    parquet_entry = _put(plan, folder_url, "parquet", _parquet(plan, rows, written, certificate))
    return FileEntries(name=plan.name, parquet=parquet_entry, **certificate)


def _already_written(plan: ShardPlan, folder_url: str) -> FileEntries | None:
    """The shard as an earlier run wrote it, if its Parquet is of this plan and the other files have their sizes."""
    try:
        content = storage.read_bytes(_url(plan, folder_url, "parquet"))
        metadata = pq.read_schema(io.BytesIO(content)).metadata or {}
        certificate = json.loads(metadata.get(_CERTIFICATE, b"{}"))
        if certificate.get("plan_hash") != plan.plan_hash:
            return None
        entries = FileEntries(name=plan.name, parquet=_entry(plan, "parquet", content), **certificate)
        for file in (entries.tar, entries.index):
            if _size(storage.join(folder_url, file.name)) != file.bytes:
                return None
    except (StorageError, pa.ArrowException):  # not there, or not Parquet
        return None
    return entries


def _size(url: str) -> int:
    with storage.open_read(url) as file:
        return file.seek(0, io.SEEK_END)


def _copy(tar: TarWriter, sample: Sample, contents: Iterator[memoryview]) -> list[Component]:
    """Append a sample's members, the image first and the JSON last; `contents` are the pieces of `sample.copied()`."""
    components: list[Component] = []

    def add(field: str, size: int, content: Iterator[memoryview] | list[bytes]) -> None:
        name = f"{sample.key}.{field}"
        components.append((field, tar.add(name, size, content), size, name))

    for member in (sample.image, *sample.sidecars):
        add(member.field, member.size, _checked(sample, member, contents))
    original = b"".join(_checked(sample, sample.metadata, contents)) if sample.metadata else None
    curation = sample.curation
    merged = merge_json(original, curation)
    if merged is None:
        field = unique_field(UNREADABLE_JSON, [field for field, *_ in components])
        add(field, len(original or b""), [original or b""])
        renamed = {**curation.get("renamed", {}), field: sample.metadata.name if sample.metadata else ""}
        merged = merge_json(None, curation | {"renamed": renamed})
    assert merged is not None  # without an original there is nothing that could be unreadable
    add("json", len(merged), [merged])
    return components


def _checked(sample: Sample, member: Member, contents: Iterator[memoryview]) -> Iterator[memoryview]:
    """The pieces of one member, with an error at their end if they are not what was indexed."""
    hasher = hashlib.sha256()
    for piece in pieces(member.url, member.offset, member.size):
        content = next(contents)
        if len(content) < piece.size:
            raise _changed(sample, member, f"the tar ends within it, {piece.size - len(content)} bytes early")
        if member.sha256 is not None:
            hasher.update(content)
        yield content
    if member.sha256 not in (None, hasher.hexdigest()):
        raise _changed(sample, member, f"its SHA-256 is {hasher.hexdigest()}, indexed was {member.sha256}")


def _changed(sample: Sample, member: Member, what: str) -> ReleaseError:
    return ReleaseError(
        f"shard {sample.shard}, member {member.name}: {what}. The tar {member.url} changed after it was indexed: "
        f"materialize shard_index and what follows for {sample.shard} again, then the release."
    )


def _dali_index(written: list[list[Component]]) -> bytes:
    """An index for DALI's webdataset reader (v1.2): one line a sample, `field offset size name` of each member."""
    lines = [" ".join(f"{field} {offset} {size} {name}" for field, offset, size, name in sample) for sample in written]
    return "\n".join([f"v1.2 {len(lines)}", *lines, ""]).encode()


def _parquet(plan: ShardPlan, rows: pa.Table, written: list[list[Component]], certificate: dict[str, Any]) -> bytes:
    """The table of the shard's samples, in the order of the tar."""
    images = [sample[0] for sample in written]
    columns: dict[str, Any] = {
        "release_key": pa.array(plan.keys, pa.string()),
        "shard": rows["shard"],
        "key": rows["key"],
        "sha256": rows["sha256"],
        "caption": rows["caption"],
        "width": rows["width"],
        "height": rows["height"],
        "format": rows["format"],
        **{name: rows[name] for name in extra_columns(rows.schema)},
        "image_name": rows["image_name"],
        "release_name": pa.array([name for *_, name in images], pa.string()),
        "image_offset": pa.array([offset for _, offset, *_ in images], pa.int64()),
        "image_size": pa.array([size for _, _, size, _ in images], pa.int64()),
    }
    # Vectors do not compress, and plain they are read several times faster.
    plain = {"vector.list.element": "none"} if "vector" in rows.schema.names else {}
    compression = {name: "zstd" for name in columns} | plain
    if plain:
        columns["vector"] = rows["vector"]
    table = pa.table(columns).combine_chunks().replace_schema_metadata({_CERTIFICATE: json.dumps(certificate).encode()})
    sink = io.BytesIO()
    dictionaries = [name for name in columns if name != "vector"]
    pq.write_table(table, sink, compression=compression, use_dictionary=dictionaries)
    return sink.getvalue()


def _put(plan: ShardPlan, folder_url: str, ending: str, content: bytes) -> FileEntry:
    storage.write_bytes(_url(plan, folder_url, ending), content)
    return _entry(plan, ending, content)


def _entry(plan: ShardPlan, ending: str, content: bytes) -> FileEntry:
    return FileEntry(name=_name(plan, ending), bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _name(plan: ShardPlan, ending: str) -> str:
    return f"{IMAGES}/{plan.name}.{ending}"


def _url(plan: ShardPlan, folder_url: str, ending: str) -> str:
    return storage.join(folder_url, _name(plan, ending))
