"""A release or plain tars -> where the image and the sidecars of each sample lie."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from image_curation import storage
from image_curation.errors import TrainingError
from image_curation.release.manifest import MANIFEST, read_manifest
from image_curation.shards.grouping import Part, group_members
from image_curation.shards.tar import TarScan

Span = tuple[int, int]  # offset and bytes in the tar


class Packed(NamedTuple):
    """A sample in a tar: the tar's position among the files, the spans of its image and of each sidecar by field."""

    key: str
    file: int
    image: Span | None
    sidecars: Mapping[str, Span]


Listing = tuple[list[Packed], list[str], dict[str, str]]
"""Samples, paths of the tars, and what they are, for the model's papers."""


def list_release(place: str) -> Listing:
    """The samples of a release, by the index files that it carries.

    Raises:
        TrainingError: a file of the release is missing or of another size than the manifest says.
    """
    manifest = read_manifest(place)
    assert manifest is not None  # whoever calls has seen it
    samples: list[Packed] = []
    files: list[str] = []
    for number, shard in enumerate(manifest.shards):
        tar = Path(place, shard.tar.name)
        if not tar.is_file() or tar.stat().st_size != shard.tar.bytes:
            raise TrainingError(
                f"{tar} is missing or has not the {shard.tar.bytes} bytes that the manifest says: copy the release "
                "again, or make it again."
            )
        files.append(str(tar))
        lines = storage.read_bytes(storage.join(place, shard.index.name)).decode().splitlines()[1:]
        samples += [_indexed(number, line) for line in lines]
    source = {
        "release": str(Path(place).resolve()),
        "manifest_sha256": hashlib.sha256(storage.read_bytes(storage.join(place, MANIFEST))).hexdigest(),
        "selection_hash": manifest.selection_hash,
        "policy_hash": manifest.policy_hash,
    }
    return samples, files, source


def list_tars(place: str, tars: Sequence[str]) -> Listing:
    """The samples of tars that nobody curated, by the headers of their members. Cut off members do not count."""
    samples: list[Packed] = []
    for number, path in enumerate(tars):
        with storage.open_read(path) as file:
            members = [member for member in TarScan(file, Path(path).stat().st_size, path) if not member.cut]
        shard = str(Path(path).relative_to(place).with_suffix(""))
        for sample in group_members(members)[0]:
            spans = {part.field: _span(part) for part in sample.sidecars}
            samples.append(
                Packed(f"{shard}/{sample.key}", number, _span(sample.image) if sample.image else None, spans)
            )
    return samples, list(tars), {"tars": str(Path(place).resolve())}


def _indexed(number: int, line: str) -> Packed:
    """A sample from its line of a release's index: `field offset size name` of each member, the image first."""
    words = line.split(" ")
    spans = {words[i]: (int(words[i + 1]), int(words[i + 2])) for i in range(0, len(words), 4)}
    return Packed(words[3].removesuffix(f".{words[0]}"), number, spans.pop(words[0]), spans)


def _span(part: Part) -> Span:
    return part.member.offset, part.member.size
