"""Turn photos into a handful of WebDataset tar shards with planted cases, the same bytes for the same seed."""

import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from image_curation import storage
from image_curation.demo.photos import Photo, load_photos
from image_curation.demo.planted import NEAR_DUPLICATES, ODDITIES, Case, jpeg

SHARDS = 6
ORIGINALS = 12
"""Photos that have near-duplicates."""

COPIES = 6
"""Near-duplicates of each kind, save the EXIF-rotated one, of which one is enough."""

QUALITIES = (75, 82, 88, 92, 95)
CAPTIONED = 0.9


@dataclass(frozen=True)
class DemoSample:
    """A sample that was written, with its key as the shard index reads it.

    `planted`: the kind of case (None: a plain photo); `of`: the key of its original.
    """

    shard: str
    key: str
    planted: str | None = None
    of: str | None = None


@dataclass(frozen=True)
class _Entry:
    """A sample before it has a shard: its key, its members by name, in order."""

    key: str
    members: dict[str, bytes]
    planted: str | None = None
    of: str | None = None


@dataclass(frozen=True)
class _Shot:
    """A photo with its key, its JPEG and its caption ("" if it has none)."""

    key: str
    photo: Photo
    data: bytes
    caption: str


def make_demo_shards(folder: str | Path, seed: int = 0) -> list[DemoSample]:
    """Write `demo-00000.tar` and so on into `folder` (a path or URL). A shard with equal bytes is left as it is.

    Returns:
        Every sample written, in the order of shards and of samples in them.

    Raises:
        ConfigError: scikit-image is not installed.
        StorageError: the folder cannot be written.
    """
    rng = random.Random(seed)
    shots = _shots(load_photos(rng), rng)
    windows = [shot for shot in shots if not shot.photo.whole]
    odd = dict(zip(ODDITIES, rng.sample(windows, len(ODDITIES)), strict=True))
    set_aside = {shot.key for shot in odd.values()}
    plain = [shot for shot in shots if shot.key not in set_aside]
    entries = [_entry(shot, shot.key, None, None, Case(lambda image, data: data)) for shot in plain]
    entries += _near_duplicates(plain, rng)
    entries += [_entry(shot, shot.key, kind, None, ODDITIES[kind]) for kind, shot in odd.items()]
    rng.shuffle(entries)
    return [
        sample
        for number in range(SHARDS)
        for sample in _write(str(folder), f"demo-{number:05}", entries[number::SHARDS])
    ]


def _shots(photos: Sequence[Photo], rng: random.Random) -> list[_Shot]:
    seen: Counter[str] = Counter()
    shots = []
    for photo in photos:
        seen[photo.source.name] += 1
        key = f"{photo.source.name}-{seen[photo.source.name]:03}"
        data = jpeg(photo.image, rng.choice(QUALITIES), progressive=rng.random() < 0.2)
        shots.append(_Shot(key, photo, data, photo.caption if rng.random() < CAPTIONED else ""))
    return shots


def _near_duplicates(plain: Sequence[_Shot], rng: random.Random) -> list[_Entry]:
    """Copies of some full frames. Each kind starts five originals further on, so that groups mix kinds and sizes."""
    frames = [shot for shot in plain if shot.photo.whole]
    originals = rng.sample(frames, ORIGINALS)
    return [
        _entry(shot, f"{shot.key}-{kind}", kind, shot.key, Case(make))
        for number, (kind, make) in enumerate(NEAR_DUPLICATES.items())
        for shot in [
            originals[(5 * number + copy) % ORIGINALS] for copy in range(1 if kind == "exif_rotated" else COPIES)
        ]
    ]


def _entry(shot: _Shot, key: str, planted: str | None, of: str | None, case: Case) -> _Entry:
    stem, dot, extension = case.suffix.rpartition(".")
    base = f"{case.folder}{key}{stem}"
    members = {} if case.make is None else {base + dot + extension: case.make(shot.photo.image, shot.data)}
    text = json.dumps(_metadata(shot.photo, planted, of), indent=1)
    members[f"{base}.json"] = (text[: len(text) // 2] if planted == "invalid_json" else text).encode()
    if shot.caption:
        members[f"{base}.txt"] = shot.caption.encode()
    return _Entry(base, members, planted, of)


def _metadata(photo: Photo, planted: str | None, of: str | None) -> dict[str, object]:
    facts: dict[str, object] = {
        "source": f"{photo.source.package}/{photo.source.path}",
        "window": list(photo.box),
        "licence": photo.source.licence,
    }
    if planted:
        facts |= {"planted": planted, "of": of}
    return facts


def _write(folder: str, shard: str, entries: Sequence[_Entry]) -> list[DemoSample]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [member for entry in entries for member in entry.members.items()]:
            info = tarfile.TarInfo(name)  # its time is 0 and its owner nobody, so that equal content is equal bytes
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    url, content = storage.join(folder, f"{shard}.tar"), buffer.getvalue()
    if not (storage.exists(url) and storage.read_bytes(url) == content):
        storage.write_bytes(url, content)
    return [DemoSample(shard, entry.key, entry.planted, entry.of) for entry in entries]
