"""Files or index files -> decoded, augmented and normalized batches with row numbers: the DALI pipelines.

Training: fused decoding of a random crop, resize, coin-flip mirror, AutoAugment or TrivialAugment, normalization.
Validation: decoding, resize of the short side, centre crop, normalization. Both run on the CPU, or decode on the GPU
("mixed") and do the rest there. Execution is dynamic: memory is taken as a batch needs it, and CPU and GPU parts mix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from nvidia.dali import fn as dali_fn
from nvidia.dali import types as dali_types
from nvidia.dali.auto_aug import auto_augment, trivial_augment
from nvidia.dali.pipeline import Pipeline, pipeline_def

from image_curation.training.squares import resizer
from image_curation.training.views import DIGITS, FIELD

fn: Any = dali_fn
types: Any = dali_types  # members of both are made while they are imported

Augmentation = Literal["none", "auto", "trivial"]
READER = "reader"
MEAN = [255 * value for value in (0.485, 0.456, 0.406)]
STD = [255 * value for value in (0.229, 0.224, 0.225)]
_VALIDATION_CROP = 224 / 256  # share of the resized short side that the centre crop keeps


@dataclass(frozen=True)
class Look:
    """How an image is seen: side of the square in pixels, random or not, and on which device which part is made."""

    size: int
    train: bool
    augmentation: Augmentation = "none"
    device: Literal["cpu", "gpu"] = "cpu"
    decoder: Literal["cpu", "mixed"] = "cpu"


def channels_first(images: torch.Tensor) -> torch.Tensor:
    """A batch of a pipeline, [b, size, size, 3] -> [b, 3, size, size] in channels_last: the same memory, not a copy."""
    return images.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Reading:
    """What a reader reads: tars with an index for each, or files with their row numbers; and its share of them."""

    paths: list[str]
    indices: list[str] | None
    rows: list[int] | None
    shard: int
    shards: int
    seed: int
    train: bool
    pad_last_batch: bool
    buffer: int


@pipeline_def(exec_dynamic=True, enable_conditionals=True, enable_checkpointing=True)  # type: ignore
def reading_pipeline(reading: Reading, look: Look) -> tuple[Any, Any]:
    """Images as `seen` makes them, and row numbers, int64 [1], of a reader's share."""
    encoded, row = _read_tars(reading) if reading.indices is not None else _read_files(reading)
    return seen(encoded, look), row.gpu() if look.device == "gpu" else row


@pipeline_def(exec_dynamic=True, enable_conditionals=True)  # type: ignore
def proxy_pipeline(look: Look) -> Any:
    """Images as `seen` makes them, of encoded ones that somebody else reads and sends."""
    return seen(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True), look)


def seen(encoded: Any, look: Look) -> Any:
    """The part that all pipelines share: encoded images -> [size, size, 3], on a GPU float, normalized as for ImageNet.

    On a CPU they are uint8: `Normalizer` is quicker there.
    """
    mirrored = fn.random.coin_flip() if look.train else 0
    images = _random_view(encoded, look, mirrored) if look.train else _centre_view(encoded, look)
    square = (look.size, look.size)
    if look.device == "cpu":
        return fn.crop(images, crop=square)
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="HWC",  # what a model in channels_last wants: see `channels_first`
        crop=square,
        mirror=mirrored,
        mean=MEAN,
        std=STD,
    )


def _random_view(encoded: Any, look: Look, mirrored: Any) -> Any:
    """A random tenth to all of the image, of an aspect ratio near its own, resized; then what is asked for beyond."""
    images = fn.decoders.image_random_crop(
        encoded,
        **_decoding(look),
        random_area=[0.08, 1.0],
        random_aspect_ratio=[3 / 4, 4 / 3],
        num_attempts=100,
    )
    images = _square(_on(images, look), look, mirrored)
    if look.augmentation == "auto":
        return auto_augment.auto_augment_image_net(images, shape=(look.size, look.size))
    if look.augmentation == "trivial":
        return trivial_augment.trivial_augment_wide(images, shape=(look.size, look.size))
    return images


def _square(images: Any, look: Look, mirrored: Any) -> Any:
    """The whole of each image in the size asked for, by a linear filter with antialiasing; on a CPU mirrored too."""
    if look.device == "gpu":
        return fn.resize(images, size=[float(look.size)] * 2, interp_type=types.INTERP_LINEAR, antialias=True)
    resized = resizer(look.size, Pipeline.current().num_threads)  # type: ignore[no-untyped-call]
    return fn.python_function(images, mirrored, function=resized, batch_processing=True, output_layouts="HWC")


def _centre_view(encoded: Any, look: Look) -> Any:
    """The image with its short side a little longer than the crop, which the normalization cuts out of its middle."""
    images = _on(fn.decoders.image(encoded, **_decoding(look)), look)
    short_side = float(round(look.size / _VALIDATION_CROP))
    return fn.resize(images, resize_shorter=short_side, interp_type=types.INTERP_LINEAR, antialias=True)


def _decoding(look: Look) -> dict[str, Any]:
    """Threads are not tied to cores: those of all processes of a machine would be tied to the same ones."""
    return {"device": look.decoder, "output_type": types.RGB, "affine": False}


def _on(images: Any, look: Look) -> Any:
    return images.gpu() if look.device == "gpu" and look.decoder == "cpu" else images


def _shared(reading: Reading) -> dict[str, Any]:
    return {
        "name": READER,
        "shard_id": reading.shard,
        "num_shards": reading.shards,
        "seed": reading.seed,  # equal for all shards, which must agree on the order of an epoch
        "pad_last_batch": reading.pad_last_batch,
        "shuffle_after_epoch": reading.train,
    }


def _read_files(reading: Reading) -> tuple[Any, Any]:
    """All files are shuffled anew after each epoch; the first one has the order given."""
    encoded, row = fn.readers.file(files=reading.paths, labels=reading.rows, **_shared(reading))
    return encoded, fn.cast(row, dtype=types.INT64)


def _read_tars(reading: Reading) -> tuple[Any, Any]:
    """Slices of tars are shuffled after each epoch, their samples in a buffer. The row stands in the source info."""
    encoded: Any = fn.readers.webdataset(
        paths=reading.paths,
        index_paths=reading.indices,
        ext=[FIELD],
        missing_component_behavior="error",
        random_shuffle=reading.train,
        initial_fill=reading.buffer,
        **_shared(reading),
    )
    digits = fn.cast(fn.get_property(encoded, key="source_info")[-DIGITS:], dtype=types.INT64) - ord("0")
    worth = types.Constant(np.array([10**place for place in reversed(range(DIGITS))], dtype=np.int64))
    return encoded, fn.reshape(fn.reductions.sum(digits * worth), shape=[1])
