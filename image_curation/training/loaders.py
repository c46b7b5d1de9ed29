"""A dataset -> epochs of batches by DALI's iterator, whose place in an epoch can be stored and taken up again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIClassificationIterator

from image_curation.errors import ConfigError, TrainingError
from image_curation.training.dataset import Dataset
from image_curation.training.epochs import Policy, batches_of, check_epochs
from image_curation.training.normalized import Normalizer
from image_curation.training.pipelines import MEAN, READER, STD, Look, Reading, channels_first, reading_pipeline
from image_curation.training.views import write_view


@dataclass(frozen=True)
class Batch:
    """b images: float32 [b, 3, size, size] in channels_last, normalized; their classes and row numbers: int64 [b]."""

    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor


class Loader(Protocol):
    """Gives epochs of batches to one process."""

    steps: int
    """Batches in an epoch; where the last may be short or missing, at most."""

    def epoch(self) -> Iterator[Batch]:
        """The batches of the epoch, or what is left of it where the loader was restored in its midst."""

    def state(self) -> bytes:
        """What a loader made of the same settings needs to go on from here."""

    def close(self) -> None:
        """Stop what works ahead. The loader cannot be used afterwards."""


@dataclass(frozen=True)
class Feed:
    """How a loader feeds one process.

    Attributes:
        look: size, augmentation and devices.
        batch_size: images in a batch, for each process.
        threads: of the host, for decoding.
        shard, shards: which share of the data this process gets, of how many.
        policy: what becomes of the last batch; see `epochs`.
        pad_last_batch: of the reader; see `epochs`.
        seed: decides the order and all that is random in the images.
        device_id: the GPU, or None on a CPU.
        prefetch: batches that are made ahead.
        buffer: samples among which the reader of tars picks the next one.
    """

    look: Look
    batch_size: int
    threads: int = 2
    shard: int = 0
    shards: int = 1
    policy: str = "drop"
    pad_last_batch: bool = True
    seed: int = 0
    device_id: int | None = None
    prefetch: int = 2
    buffer: int = 2048


class DaliLoader:
    """Epochs of batches from DALI's readers.

    Args:
        dataset: what is read.
        feed: how.
        state: of a loader with the same dataset and feed; it goes on in the middle of its epoch, in the same order and
            with the same crops.

    Raises:
        ConfigError: the policy does not keep its word, or there are fewer images than shards or batches need.
    """

    def __init__(self, dataset: Dataset, feed: Feed, state: bytes | None = None) -> None:
        policy = check_epochs(feed.pad_last_batch, feed.policy)
        self.steps = steps_of(dataset, feed, policy)
        self._dataset = dataset
        self._labels = torch.from_numpy(dataset.labels)
        if feed.device_id is not None:
            self._labels = self._labels.to(f"cuda:{feed.device_id}")
        self._normalized = Normalizer(MEAN, STD)
        self._folder = tempfile.TemporaryDirectory(prefix="image-curation-view-")
        pipeline = reading_pipeline(
            _reading(dataset, feed, Path(self._folder.name)),
            feed.look,
            batch_size=feed.batch_size,
            num_threads=feed.threads,
            device_id=feed.device_id,
            seed=seed_of_shard(feed),
            prefetch_queue_depth=feed.prefetch,
            **({"checkpoint": state} if state else {}),
        )
        self._iterator: Any = DALIClassificationIterator(
            [pipeline],
            reader_name=READER,
            last_batch_policy=LastBatchPolicy[policy.upper()],
            auto_reset=True,
            prepare_first_batch=False,  # else its errors come here, and a place at an epoch's end is lost
        )

    def epoch(self) -> Iterator[Batch]:
        """See `Loader`.

        Raises:
            TrainingError: DALI cannot read or decode something. The loader cannot be used after that.
        """
        while True:
            try:
                (outputs,) = next(self._iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                raise TrainingError(
                    f"DALI lost a batch of {self._dataset.place}: {_first_line(error)}. If an image changed or its "
                    "check was left out: train with --check decode, which leaves out what cannot be decoded."
                ) from error
            rows = outputs["label"].reshape(-1)
            yield Batch(channels_first(self._normalized(outputs["data"])), self._labels[rows], rows)

    def state(self) -> bytes:
        """See `Loader`. Some kB, and in the format of the DALI that is installed."""
        checkpoint: bytes = self._iterator.checkpoints()[0]
        return checkpoint

    def close(self) -> None:
        """See `Loader`."""
        del self._iterator
        self._folder.cleanup()


def steps_of(dataset: Dataset, feed: Feed, policy: Policy) -> int:
    """Batches that each process gets in an epoch.

    Raises:
        ConfigError: there are fewer images than processes, or not enough for one batch.
    """
    if len(dataset) < feed.shards:
        raise ConfigError(f"{dataset.place} has {len(dataset)} images, which should be >= {feed.shards} processes.")
    steps = batches_of(len(dataset), feed.shards, feed.batch_size, policy)
    if steps == 0:
        share = len(dataset) // feed.shards
        raise ConfigError(
            f"batch_size={feed.batch_size} should be <= {share}, the images that each of {feed.shards} processes gets "
            f"of {dataset.place}: no batch could be filled."
        )
    return steps


def _reading(dataset: Dataset, feed: Feed, folder: Path) -> Reading:
    seed = feed.seed if feed.look.train else None
    common = Reading(
        [], None, None, feed.shard, feed.shards, feed.seed, feed.look.train, feed.pad_last_batch, feed.buffer
    )
    if dataset.packed:
        paths, indices = write_view(dataset, folder, seed)
        return replace(common, paths=paths, indices=indices)
    order = np.arange(len(dataset)) if seed is None else np.random.default_rng(seed).permutation(len(dataset))
    return replace(common, paths=[dataset.files[dataset.file[row]] for row in order], rows=order.tolist())


def seed_of_shard(feed: Feed) -> int:
    """The seed of a shard's crops and flips, which differ between shards; DALI takes seeds of 31 bits."""
    return int(np.random.SeedSequence([feed.seed, feed.shard]).generate_state(1)[0] >> 1)


def _first_line(error: Exception) -> str:
    """The line that says most of what DALI says over many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = (line for sign in ("Failed to decode", "failure", "Error in") for line in lines if sign in line)
    return next(telling, lines[0] if lines else "no reason given")
