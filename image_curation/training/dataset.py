"""A release, plain tars or class folders -> labelled images: where each lies, its key and its class."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from image_curation.errors import ConfigError, TrainingError
from image_curation.release.manifest import MANIFEST
from image_curation.training.class_folders import list_class_folders
from image_curation.training.labels import numbered, read_labels
from image_curation.training.tar_samples import Packed, list_release, list_tars

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """n images with their classes. A row number is a position here, and stands for the image wherever batches go.

    Attributes:
        place: the folder that it was read from.
        packed: whether `files` are tars; else each is an image.
        files: paths on disk.
        file, offset, size: int64 [n], the file of each image and where its bytes lie in it.
        keys: n of them, each once.
        labels: int64 [n], positions in `classes`.
        classes: names of the classes.
        left_out: reason -> how many images of the place are not among the n.
        source: what it was made of, for the model's papers: of a release the SHA-256 of its manifest.
    """

    place: str
    packed: bool
    files: tuple[str, ...]
    file: Ints
    offset: Ints
    size: Ints
    keys: tuple[str, ...]
    labels: Ints
    classes: tuple[str, ...]
    left_out: Mapping[str, int]
    source: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.keys)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of keys, places, labels and classes: equal datasets give equal orders of training."""
        hasher = hashlib.sha256("\0".join([*self.keys, "", *self.classes]).encode())
        for part in (self.file, self.offset, self.size, self.labels):
            hasher.update(part.tobytes())
        return hasher.hexdigest()

    def take(self, rows: Ints) -> Dataset:
        """The images of some rows, which get new row numbers."""
        parts = {name: getattr(self, name)[rows] for name in ("file", "offset", "size", "labels")}
        return replace(self, keys=tuple(self.keys[row] for row in rows), **parts)

    def leave_out(self, reasons: Mapping[int, str]) -> Dataset:
        """All images but the rows in `reasons`, which are counted by their reasons."""
        counts = Counter(self.left_out) + Counter(reasons.values())
        kept = np.array([row for row in range(len(self)) if row not in reasons], dtype=np.int64)
        return replace(self.take(kept), left_out=dict(sorted(counts.items())))

    def split(self, fraction: float) -> tuple[Dataset, Dataset]:
        """About `1 - fraction` and `fraction` of the images, chosen by their keys alone, the same ones each time."""
        chance = [int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32 for key in self.keys]
        held_out = np.array(chance) < fraction
        return self.take(np.flatnonzero(~held_out)), self.take(np.flatnonzero(held_out))


def open_dataset(place: str, label_field: str = "cls", classes: Sequence[str] | None = None) -> Dataset:
    """List the images of a place on disk; none is decoded.

    Args:
        place: a release (it has a manifest), a folder of WebDataset tars, or a folder with one folder a class.
        label_field: of tars: `cls` takes the class from the text of each sample's `.cls` sidecar, anything else is a
            field of its JSON sidecar, `genus` or `plant.genus`. Class folders are named for their classes.
        classes: of a model that the images are meant for; none takes those that occur.

    Raises:
        ConfigError: there is no such folder on disk, or nothing to train on in it.
        TrainingError: samples have no label, or one that is not among `classes`.
    """
    folder = Path(place)
    if "://" in place or not folder.is_dir():
        raise ConfigError(f"{place} is no folder on disk, and DALI reads from nothing else: copy it to one first.")
    tars = sorted(str(path) for path in folder.rglob("*.tar"))
    if (folder / MANIFEST).is_file() or tars:
        release = (folder / MANIFEST).is_file()
        samples, files, source = list_release(place) if release else list_tars(place, tars)
        return _packed(place, files, samples, label_field, classes, source)
    paths, names = list_class_folders(folder)
    numbers, classes = numbered(names, classes, [str(path.relative_to(folder)) for path in paths])
    return Dataset(
        place=place,
        packed=False,
        files=tuple(map(str, paths)),
        file=np.arange(len(paths), dtype=np.int64),
        offset=np.zeros(len(paths), np.int64),
        size=np.array([path.stat().st_size for path in paths], dtype=np.int64),
        keys=tuple(str(path.relative_to(folder)) for path in paths),
        labels=numbers,
        classes=classes,
        left_out={},
        source={"class_folders": str(folder.resolve())},
    )


def _packed(
    place: str,
    files: Sequence[str],
    samples: Sequence[Packed],
    label_field: str,
    classes: Sequence[str] | None,
    source: Mapping[str, str],
) -> Dataset:
    """A dataset of samples in tars. Those without an image are counted, those without a label refused."""
    pictured = [sample for sample in samples if sample.image is not None]
    if not pictured:
        raise ConfigError(f"{place} holds no sample with an image: there is nothing to train on.")
    names = read_labels(files, pictured, label_field)
    numbers, classes = numbered(names, classes, [sample.key for sample in pictured])
    places = np.array([(sample.file, *sample.image) for sample in pictured if sample.image], dtype=np.int64)
    missing = len(samples) - len(pictured)
    keys = tuple(sample.key for sample in pictured)
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise TrainingError(f"{place}: the key {twice} comes twice. Curate the tars first, or rename one.")
    return Dataset(
        place=place,
        packed=True,
        files=tuple(files),
        file=places[:, 0].copy(),
        offset=places[:, 1].copy(),
        size=places[:, 2].copy(),
        keys=keys,
        labels=numbers,
        classes=classes,
        left_out={"missing_image": missing} if missing else {},
        source=source,
    )
