"""One tar shard -> a table with one row for every sample in it, in one pass that reads each image once.

A row says where the bytes of the sample lie, what its image is by its header, its content hash, caption and metadata.
What is wrong with a sample is in its row; what is wrong with the tar is said beside the table.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from image_curation import storage
from image_curation.decode.jpeg import looked_into
from image_curation.decode.limits import DecodeLimits
from image_curation.errors import ImageError, ShardError, StorageError
from image_curation.shards.discover import Shard
from image_curation.shards.grouping import IMAGE_FIELDS, Part, Sample, extension, group_members, stray_reason
from image_curation.shards.header import Header, check_bytes, check_limits, read_header
from image_curation.shards.tar import Member, TarScan

CODE_VERSION = "2"  # changes when the same tar would give other rows

SHARD_INDEX_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_name", pa.string()),
        pa.field("image_offset", pa.int64()),
        pa.field("image_size", pa.int64()),
        pa.field(
            "sidecars",
            pa.list_(
                pa.struct([("name", pa.string()), ("field", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
            ),
            nullable=False,
        ),
        pa.field("caption", pa.string()),
        pa.field("metadata", pa.string()),  # the text of the .json sidecar, where it is a JSON object
        pa.field("format", pa.string()),
        pa.field("width", pa.int32()),  # as shown, after EXIF orientation
        pa.field("height", pa.int32()),
        pa.field("orientation", pa.int8()),
        pa.field("damaged", pa.bool_()),  # inside a JPEG; null where nobody looked
        pa.field("sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)

# Larger ones stay sidecars, but no caption or metadata is taken from them.
LARGEST_TEXT_BYTES = 16 << 20
_TEXT_FIELDS = ("txt", "caption", "json")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard (`SHARD_INDEX_SCHEMA`), members that belong to none, and what is wrong with the tar."""

    table: pa.Table
    strays: list[dict[str, str]]
    problem: str | None


@dataclass(frozen=True)
class _ImageFacts:
    sha256: str | None = None
    header: Header | None = None
    status: str = "ok"
    error: str | None = None


def index_shard(shard: Shard, limits: DecodeLimits) -> ShardIndex:
    """Read a shard through once and describe every sample in it.

    Rows are ordered by the first member of their sample. Statuses: `ok`, `missing_image`, `empty_image`,
    `truncated_member`, and the codes of `read_header` and `check_limits`. Strays are those of `group_members`, and
    sidecars whose data is cut off (`truncated_member`). Memory: the largest image up to `limits.max_bytes`, and the
    captions and JSON texts of the shard; larger images are hashed in chunks and not read otherwise.

    Raises:
        ShardError: it is no tar, is empty, or is not as it was when it was listed.
        StorageError: it cannot be opened or read.
    """
    images: dict[int, _ImageFacts] = {}
    texts: dict[int, bytes] = {}
    members: list[Member] = []
    with storage.open_read(shard.url) as file:
        try:
            scan = TarScan(file, _checked_size(file, shard), shard.url)
            for member in scan:
                members.append(member)
                if member.cut or stray_reason(member):
                    continue
                if extension(member.name) in IMAGE_FIELDS:
                    images[member.offset] = _look_at(file, member, limits)
                elif extension(member.name) in _TEXT_FIELDS and member.size <= LARGEST_TEXT_BYTES:
                    texts[member.offset] = b"".join(_chunks(file, member))
        except OSError as error:
            raise StorageError(f"cannot read {shard.url} to its end: {error}. Try again, or fetch it again.") from error
    samples, strays = group_members(members)
    rows = [_row(shard.key, sample, images, texts) for sample in samples]
    cut = [part.member.name for sample in samples for part in sample.sidecars if part.member.cut]
    strays += [{"name": name, "reason": "truncated_member"} for name in cut]
    return ShardIndex(pa.Table.from_pylist(rows, schema=SHARD_INDEX_SCHEMA), strays, scan.problem)


def _checked_size(file: BinaryIO, shard: Shard) -> int:
    size = file.seek(0, 2)
    if size != shard.size:
        raise ShardError(
            f"{shard.url} has {size} bytes, but had {shard.size} when it was listed. List the source again."
        )
    return size


def _look_at(file: BinaryIO, member: Member, limits: DecodeLimits) -> _ImageFacts:
    """Hash the data of an image member, read its header and look for damage inside a JPEG.

    What is wrong with it becomes status and error, but for that damage: a decoder may still make a picture of it.
    """
    header = None
    try:
        check_bytes(member.size, limits)
    except ImageError as error:
        return _ImageFacts(_hash_of(file, member), None, error.code, str(error))
    data = b"".join(_chunks(file, member, member.size))
    sha256 = hashlib.sha256(data).hexdigest()
    if not data:
        return _ImageFacts(sha256, None, "empty_image", "it has no bytes")
    try:
        header = read_header(data)
        check_limits(header, member.size, limits)
    except ImageError as error:
        return _ImageFacts(sha256, header, error.code, str(error))
    return _ImageFacts(sha256, looked_into(header, data))


def _hash_of(file: BinaryIO, member: Member) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(file, member):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: BinaryIO, member: Member, chunk_bytes: int = _CHUNK) -> Iterator[bytes]:
    """The data of a member, at most `chunk_bytes` at a time."""
    file.seek(member.offset)
    left = member.size
    while left:
        chunk = file.read(min(left, chunk_bytes))
        if not chunk:
            raise OSError(f"it ended {left} bytes before the end of member {member.name!r}")
        left -= len(chunk)
        yield chunk


def _row(shard: str, sample: Sample, images: dict[int, _ImageFacts], texts: dict[int, bytes]) -> dict[str, Any]:
    metadata = _metadata(_text_of(sample, "json", texts))
    facts = _facts_of(sample, images)
    width, height = facts.header.shown_size if facts.header else (None, None)
    place = f"member {sample.image.member.name}" if sample.image else f"sample {sample.key}"
    return {
        "shard": shard,
        "key": sample.key,
        "image_name": sample.image.member.name if sample.image else None,
        "image_offset": sample.image.member.offset if sample.image else None,
        "image_size": sample.image.member.size if sample.image else None,
        "sidecars": [_sidecar(part) for part in sample.sidecars if not part.member.cut],
        "caption": _caption(sample, texts, metadata),
        "metadata": metadata[0] if metadata else None,
        "format": facts.header.format if facts.header else None,
        "width": width,
        "height": height,
        "orientation": facts.header.orientation if facts.header else None,
        "damaged": facts.header.damaged if facts.header else None,
        "sha256": facts.sha256,
        "status": facts.status,
        "error": f"shard {shard}, {place}: {facts.error}" if facts.error else None,
    }


def _facts_of(sample: Sample, images: dict[int, _ImageFacts]) -> _ImageFacts:
    if sample.image is None:
        fields = ", ".join(part.field for part in sample.sidecars)
        return _ImageFacts(status="missing_image", error=f"there is no image beside its members ({fields})")
    if sample.image.member.cut:
        return _ImageFacts(status="truncated_member", error="the tar ends before the data of this image does")
    return images[sample.image.member.offset]


def _sidecar(part: Part) -> dict[str, str | int]:
    member = part.member
    return {"name": member.name, "field": part.field, "offset": member.offset, "size": member.size}


def _text_of(sample: Sample, field: str, texts: dict[int, bytes]) -> bytes:
    """The bytes of the first sidecar with this field; empty where there is none that could be read."""
    found = (
        texts[part.member.offset] for part in sample.sidecars if part.field == field and part.member.offset in texts
    )
    return next(found, b"")


def _metadata(text: bytes) -> tuple[str, dict[str, Any]] | None:
    """A JSON object as text and as values; None for anything else."""
    try:
        decoded = text.decode("utf-8-sig")
        values = json.loads(decoded)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, numbers of thousands of digits, endless nesting
        return None
    return (decoded, values) if isinstance(values, dict) else None


def _caption(sample: Sample, texts: dict[int, bytes], metadata: tuple[str, dict[str, Any]] | None) -> str | None:
    """The .txt, else the .caption, else "caption" or "text" of the JSON: the first that holds something readable."""
    candidates = [_text_of(sample, field, texts).decode("utf-8-sig", "replace") for field in ("txt", "caption")]
    if metadata:
        values = (metadata[1].get(name) for name in ("caption", "text"))
        # JSON may spell out half a surrogate pair, which is no text
        candidates += [value.encode("utf-8", "replace").decode() for value in values if isinstance(value, str)]
    readable = (text.strip() for text in candidates if text.strip(" \t\r\n\0\N{REPLACEMENT CHARACTER}"))
    return next(readable, None)
