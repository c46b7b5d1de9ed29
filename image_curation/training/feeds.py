"""A configuration and a dataset -> the loader that it asks for, for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from image_curation.training.config import TrainConfig
from image_curation.training.dataset import Dataset
from image_curation.training.loaders import Batch, DaliLoader, Feed, Loader, steps_of
from image_curation.training.pipelines import Look, channels_first
from image_curation.training.processes import Processes
from image_curation.training.proxy import ProxyLoader


def training_loader(config: TrainConfig, dataset: Dataset, processes: Processes, state: bytes | None) -> Loader:
    """Shuffled and augmented, equally many full batches for all processes."""
    feed = feed_of(config, processes, train=True)
    if config.loader == "synthetic":
        return SyntheticLoader(dataset, feed, processes.device)
    if config.loader == "proxy":
        return ProxyLoader(dataset, feed, state, workers=feed.threads)
    return DaliLoader(dataset, feed, state)


def validation_loader(config: TrainConfig, dataset: Dataset, processes: Processes) -> Loader:
    """Every image once, in order, over all processes."""
    return DaliLoader(dataset, feed_of(config, processes, train=False))


def feed_of(config: TrainConfig, processes: Processes, train: bool) -> Feed:
    """How this process is fed."""
    gpu = processes.device.type == "cuda"
    decoder = ("mixed" if gpu else "cpu") if config.decoder == "auto" else config.decoder
    look = Look(config.image_size, train, config.augmentation, "gpu" if gpu else "cpu", decoder)
    return Feed(
        look=look,
        batch_size=config.batch_size,
        threads=threads_of(config, processes),
        shard=processes.rank,
        shards=processes.count,
        policy="drop" if train else "partial",
        seed=config.seed,
        device_id=processes.local if gpu else None,
        prefetch=3 if gpu else 2,
        buffer=config.buffer,
    )


def threads_of(config: TrainConfig, processes: Processes) -> int:
    """Threads that decode in this process: as set, or its share of the cores of its machine."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.count))
    return config.threads or max(1, len(os.sched_getaffinity(0)) // here)


class SyntheticLoader:
    """The same random batch again and again, on the device already: the limit that no loader can beat."""

    def __init__(self, dataset: Dataset, feed: Feed, device: torch.device) -> None:
        self.steps = steps_of(dataset, feed, "drop")
        chance = torch.Generator().manual_seed(feed.seed + feed.shard)
        images = channels_first(torch.randn(feed.batch_size, feed.look.size, feed.look.size, 3, generator=chance))
        rows = torch.randint(len(dataset), (feed.batch_size,), generator=chance)
        labels = torch.from_numpy(dataset.labels)[rows]
        self._batch = Batch(images.to(device), labels.to(device), rows.to(device))

    def epoch(self) -> Iterator[Batch]:
        """See `Loader`."""
        for _ in range(self.steps):
            yield self._batch

    def state(self) -> bytes:
        """See `Loader`: it has no place in its epoch, so a run that goes on begins the epoch again."""
        return b""

    def close(self) -> None:
        """See `Loader`."""
