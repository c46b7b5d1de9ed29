"""Sidecars of samples -> the name of each one's class, and its number."""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from image_curation import storage
from image_curation.errors import TrainingError
from image_curation.training.tar_samples import Packed

_SHOWN = 5


def read_labels(files: Sequence[str], samples: Sequence[Packed], label_field: str) -> list[str]:
    """The class of each sample, from its `.cls` sidecar, or from a field (`genus`, `plant.genus`) of its JSON.

    Only the sidecars are read. A class is a text or a whole number.

    Raises:
        TrainingError: samples have no such field, or something else in it.
    """
    sidecar = "cls" if label_field == "cls" else "json"
    labels: list[str | None] = []
    for number, group in groupby(samples, key=lambda sample: sample.file):
        with storage.open_read(files[number]) as file:
            for sample in group:
                offset, size = sample.sidecars.get(sidecar, (0, 0))
                file.seek(offset)
                labels.append(_label(file.read(size), label_field))
    missing = [sample.key for sample, label in zip(samples, labels, strict=True) if label is None]
    if missing:
        wanted = "no `.cls` sidecar with a class" if sidecar == "cls" else f"no class in {label_field!r} of their JSON"
        raise TrainingError(
            f"{len(missing)} of {len(samples)} samples have {wanted}: {_some(missing)}. Name the field that holds a "
            "text or a whole number with --label-field, or drop these samples by the policy."
        )
    return [label for label in labels if label is not None]


def numbered(
    names: Sequence[str], classes: Sequence[str] | None, keys: Sequence[str]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The number of each name in `classes` (int64 [n]), and the classes: those given, or those that occur, sorted.

    Whole numbers are sorted as such: class 10 comes behind class 9.

    Raises:
        TrainingError: a name is not among the given classes.
    """
    if classes is None:
        distinct = set(names)
        whole = all(name.isdecimal() for name in distinct)
        classes = sorted(distinct, key=lambda name: (int(name), name) if whole else (0, name))
    number = {name: i for i, name in enumerate(classes)}
    strange = [f"{key} ({name})" for key, name in zip(keys, names, strict=True) if name not in number]
    if strange:
        raise TrainingError(
            f"{len(strange)} of {len(names)} samples have a class that the model is not trained on: {_some(strange)}."
        )
    return np.array([number[name] for name in names], dtype=np.int64), tuple(classes)


def _label(content: bytes, label_field: str) -> str | None:
    """The class in a sidecar's bytes; None where there is none."""
    if label_field == "cls":
        return content.decode("utf-8", "replace").strip() or None
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    for name in label_field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return str(value) if isinstance(value, str | int) and value != "" else None


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
