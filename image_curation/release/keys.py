"""Keys and fields of samples -> names that every WebDataset reader takes: safe characters, unique, true extension."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence

# Format of an image -> the extensions that stand for it; the first is taken where the original one says something else.
_EXTENSIONS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff"),
    "BMP": ("bmp", "dib"),
    "AVIF": ("avif", "avifs"),
    "JPEG2000": ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
}


def release_keys(samples: Sequence[tuple[str, str]]) -> list[str]:
    """The key of each sample in the release, unique over all of them and independent of their order.

    A key stays as it is when it is safe (characters A-Z a-z 0-9 _ - /). Other characters become `_`, since dots split a
    key from its field and DALI's index splits at spaces. Samples whose keys then clash get their shard before them, and
    what still clashes gets a hash of its identity: the content hash would not tell two copies of one image apart.

    Args:
        samples: (shard, key) of each sample; no pair twice.
    """
    keys = [_safe_path(key) for _, key in samples]
    for i in _clashing(keys):
        keys[i] = _safe_path(f"{samples[i][0]}/{samples[i][1]}")
    for digits in (8, 16, 32, 64):
        for i in _clashing(keys):
            identity = "\0".join(samples[i]).encode()
            keys[i] = f"{keys[i]}-{hashlib.sha256(identity).hexdigest()[:digits]}"
    return keys


def _clashing(keys: Sequence[str]) -> list[int]:
    counts = Counter(keys)
    return [i for i, key in enumerate(keys) if counts[key] > 1]


def _safe_path(path: str) -> str:
    safe = "/".join(part for part in re.sub(r"[^A-Za-z0-9_/-]", "_", path).split("/") if part) or "_"
    # webdataset skips members below a top folder `__name__` as metadata of the tar.
    return f"x{safe}" if re.match(r"__[^/]*__(/|$)", safe) else safe


def image_field(image_name: str, image_format: str | None) -> str:
    """The extension that says what the image is: the original one if it is right, else the usual one of the format."""
    original = safe_field(image_name.rpartition(".")[2])
    known = _EXTENSIONS.get(image_format or "", (original,))
    return original if original in known else known[0]


def safe_field(field: str) -> str:
    """A sidecar's field in characters a-z 0-9 _ - and dots; never like webdataset's own `__key__` and `__url__`."""
    safe = re.sub(r"[^a-z0-9._-]", "_", field.lower()) or "_"
    return f"x{safe}" if safe.startswith("__") else safe


def unique_field(field: str, taken: Collection[str]) -> str:
    """`field`, or where that is taken `2.field`, `3.field`, ...: a reader decodes by what stands after the last dot."""
    number = 1
    name = field
    while name in taken:
        number += 1
        name = f"{number}.{field}"
    return name
