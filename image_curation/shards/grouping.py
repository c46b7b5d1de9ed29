"""Names of tar members -> samples (one image and its sidecars each), and the members that belong to no sample.

The convention is that of the webdataset library: the key is the path up to the first dot of the base name, the field is
the rest in lower case, a leading `./` does not count. Members of a sample need not lie side by side. Beyond it:

- `img.v1.000.jpg` and `img.v1.001.jpg` are fields `v1.000.jpg` and `v1.001.jpg` of one sample `img` by that rule, which
  has no image then. So where a group has no plain image (a field of one part, as `jpg`) but has dotted ones, all its
  members are keyed by the LAST dot: samples `img.v1.000` and `img.v1.001`, each with its own `.json` and `.txt`.
- Of several plain images the first in the tar is the image, those in formats that are read before the others; the
  rest are sidecars.
- Of members with the same name the last counts, as when a tar is unpacked.
- Nothing goes in silence: every file that is left out is a stray with a reason.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from image_curation.shards.tar import Member

# fmt: off
READ_IMAGE_FIELDS = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif",
    "jp2", "j2k", "jpc", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm",
))
# Pictures too, but refused with a status that says so.
IMAGE_FIELDS = READ_IMAGE_FIELDS | {"heic", "heif", "jxl", "psd", "svg", "eps", "ico", "exr", "hdr"}
# fmt: on


@dataclass(frozen=True)
class Part:
    """A member in its role in a sample."""

    field: str
    member: Member


@dataclass(frozen=True)
class Sample:
    """A key with its image, if there is one, and all other parts in the order of the tar."""

    key: str
    image: Part | None
    sidecars: tuple[Part, ...]

    @property
    def start(self) -> int:
        """The offset of its first member's data in bytes, by which samples are ordered."""
        return min(part.member.offset for part in (*self.sidecars, *([self.image] if self.image else [])))


def group_members(members: Iterable[Member]) -> tuple[list[Sample], list[dict[str, str]]]:
    """Group the members of a tar into samples, ordered by their first members.

    Returns:
        The samples, and the strays as `{"name": ..., "reason": ...}`. Reasons: `link`, `special_file`, `unsafe_name`
        (absolute, or with `..`, so that unpacking it would write elsewhere), `hidden_file`, `no_extension`,
        `overridden` (a later member has the same name). Folders are neither.
    """
    latest: dict[str, Member] = {}
    strays: list[dict[str, str]] = []
    for member in members:
        if member.kind == "dir":
            continue
        reason = stray_reason(member)
        if reason:
            strays.append({"name": member.name, "reason": reason})
            continue
        name = _clean(member.name)
        if name in latest:
            strays.append({"name": latest.pop(name).name, "reason": "overridden"})
        latest[name] = member
    return _samples(latest), strays


def stray_reason(member: Member) -> str | None:
    """Why a member can belong to no sample, judged by itself; None where it can."""
    if member.kind != "file":
        return "link" if member.kind == "link" else "special_file"
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        return "unsafe_name"
    if parts[-1].startswith("."):
        return "hidden_file"
    return None if extension(member.name) else "no_extension"


def extension(name: str) -> str:
    """What stands behind the last dot of the base name, in lower case; empty where there is no dot."""
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else ""


def _samples(members: dict[str, Member]) -> list[Sample]:
    """`members`: clean name -> member."""
    by_first_dot: dict[str, dict[str, Member]] = {}
    for name, member in members.items():
        by_first_dot.setdefault(_split(name, first=True)[0], {})[name] = member
    samples = [sample for group in by_first_dot.values() for sample in _samples_of_group(group)]
    return sorted(samples, key=lambda sample: sample.start)


def _samples_of_group(members: dict[str, Member]) -> list[Sample]:
    """One sample, or one for each last-dot key where the only images have dotted fields."""
    has_plain_image = any(_split(name, first=True)[1] in IMAGE_FIELDS for name in members)
    has_image = any(extension(name) in IMAGE_FIELDS for name in members)
    by_key: dict[str, list[Part]] = {}
    for name, member in members.items():
        key, field = _split(name, first=has_plain_image or not has_image)
        by_key.setdefault(key, []).append(Part(field, member))
    return [_sample(key, parts) for key, parts in by_key.items()]


def _sample(key: str, parts: list[Part]) -> Sample:
    images = [part for part in parts if part.field in IMAGE_FIELDS]
    image = min(images, key=lambda part: part.field not in READ_IMAGE_FIELDS, default=None)
    return Sample(key, image, tuple(part for part in parts if part is not image))


def _split(name: str, first: bool) -> tuple[str, str]:
    """Key and field of a clean name, cut at the first or the last dot of its base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, field = base.partition(".") if first else base.rpartition(".")
    return folder + slash + stem, field.lower()


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))
