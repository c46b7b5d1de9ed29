"""One row of the selection -> the members of its sample in a release, and the JSON that says what was learnt of it."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from image_curation.release.keys import image_field, safe_field, unique_field
from image_curation.release.plan import extra_columns

UNREADABLE_JSON = "json.original"  # a field that webdataset's decoders leave alone
_JSON_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Member:
    """A file of a sample: its field in the release, and where its bytes are in the source tar."""

    field: str
    name: str
    url: str
    offset: int
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Sample:
    """A sample on its way into a release. `metadata` is its original JSON sidecar; it is not copied but merged."""

    key: str
    shard: str
    image: Member
    sidecars: list[Member]
    metadata: Member | None
    curation: dict[str, Any] = field(repr=False)

    def copied(self) -> list[Member]:
        """The members in the order in which they are read and written; the JSON sidecar comes behind them."""
        return [self.image, *self.sidecars, *([self.metadata] if self.metadata else [])]


def samples_of(keys: tuple[str, ...], rows: pa.Table) -> Iterator[Sample]:
    """The samples of an output shard, one for each row, under the planned keys."""
    learnt = {name: _plain(rows[name]) for name in ("sha256", "format", "width", "height", *extra_columns(rows.schema))}
    places = rows.select(["shard", "key", "url", "image_name", "image_offset", "image_size", "sidecars"]).to_pylist()
    for i, (key, row) in enumerate(zip(keys, places, strict=True)):
        curation = {"shard": row["shard"], "key": row["key"], "image_name": row["image_name"]}
        yield _sample(key, row, curation | {name: values[i] for name, values in learnt.items()})


def _sample(key: str, row: dict[str, Any], curation: dict[str, Any]) -> Sample:
    extension = image_field(row["image_name"], curation["format"])
    image = Member(extension, row["image_name"], row["url"], row["image_offset"], row["image_size"], curation["sha256"])
    taken = {extension, "json"}
    sidecars: list[Member] = []
    metadata: Member | None = None
    renamed: dict[str, str] = {}
    for sidecar in row["sidecars"] or []:
        is_metadata = sidecar["field"] == "json" and metadata is None
        name = "json" if is_metadata else unique_field(safe_field(sidecar["field"]), taken)
        member = Member(name, sidecar["name"], row["url"], sidecar["offset"], sidecar["size"], sidecar.get("sha256"))
        if is_metadata:
            metadata = member
            continue
        sidecars.append(member)
        taken.add(name)
        if name != sidecar["field"]:
            renamed[name] = sidecar["name"]
    return Sample(key, row["shard"], image, sidecars, metadata, curation | ({"renamed": renamed} if renamed else {}))


def merge_json(original: bytes | None, curation: dict[str, Any]) -> bytes | None:
    """A JSON object's own text with one more entry, `curation`; None if `original` is no JSON object.

    The text is kept as it is, since parsing and printing would lose digits of numbers and keys that come twice. Only an
    object that has a `curation` already (it is from a release) is printed anew: the old one becomes `previous` within
    the new one.
    """
    if original is None:
        return json.dumps({"curation": curation}).encode()
    try:
        text = original.decode(json.detect_encoding(original), "surrogatepass").strip(_JSON_SPACE)
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    if "curation" in fields:
        curation = curation | {"previous": fields.pop("curation")}
        text = json.dumps(fields)
    opened = text[:-1].rstrip(_JSON_SPACE) + (", " if fields else "")
    return f'{opened}"curation": {json.dumps(curation)}}}'.encode("utf-8", "surrogatepass")


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Values as JSON has them: no NaN or infinity, and a float in its shortest form that gives the same float again.

    Unsigned 64-bit numbers are hashes: they become 16 hex digits, as readers of JSON take numbers for signed or float.
    """
    values: list[Any] = column.to_pylist()
    if pa.types.is_uint64(column.type):
        return [None if value is None else f"{value:016x}" for value in values]
    if not pa.types.is_floating(column.type):
        return values
    precise = column.type.to_pandas_dtype()
    return [None if value is None or not math.isfinite(value) else float(str(precise(value))) for value in values]
