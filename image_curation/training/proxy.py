"""A dataset -> epochs of batches by PyTorch's DataLoader: its workers read and sample, one DALI pipeline decodes.

For data that DALI has no reader for, or orders of its own: what is sampled is Python, what costs time is DALI. Workers
send the bytes of each image to the pipeline (DALI Proxy), which runs in this process and has the GPU to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali.plugin.pytorch.experimental import proxy
from torch.utils.data import Dataset as TorchDataset

from image_curation.errors import TrainingError
from image_curation.training.dataset import Dataset
from image_curation.training.epochs import check_epochs
from image_curation.training.loaders import Batch, Feed, seed_of_shard, steps_of
from image_curation.training.normalized import Normalizer
from image_curation.training.pipelines import MEAN, STD, channels_first, proxy_pipeline
from image_curation.training.readable import image_bytes

dali_proxy: Any = proxy  # it has no types


class ProxyLoader:
    """Epochs of batches by DALI Proxy.

    Each epoch has an order of its own, which the seed decides; shards are taken from it in turn. A restored loader goes
    on with the same samples in the same order, but with other crops: the pipeline's chance is not part of the state.

    Args:
        dataset, feed, state: as for `DaliLoader`.
        workers: processes that read, at least one.
    """

    def __init__(self, dataset: Dataset, feed: Feed, state: bytes | None = None, workers: int = 2) -> None:
        self._policy = check_epochs(feed.pad_last_batch, feed.policy)
        self.steps = steps_of(dataset, feed, self._policy)
        self._dataset, self._feed = dataset, feed
        self._epoch, self._done = (int(n) for n in state.split()) if state else (0, 0)
        self._normalized = Normalizer(MEAN, STD)
        _allow_cpu_torch()
        pipeline = proxy_pipeline(
            feed.look,
            batch_size=feed.batch_size,
            num_threads=feed.threads,
            device_id=feed.device_id,
            seed=seed_of_shard(feed),
            prefetch_queue_depth=max(feed.prefetch, 2 * workers),  # each worker sends two batches ahead
        )
        self._server = dali_proxy.DALIServer(pipeline, deterministic=True)
        self._loader = dali_proxy.DataLoader(
            self._server,
            _Encoded(dataset, self._server.proxy),
            batch_sampler=_Batches(self.rest_of_epoch),
            num_workers=workers,
            multiprocessing_context="fork",  # the proxy cannot be sent to a process of another kind
        )
        self._running: Iterator[Any] | None = None

    def epoch(self) -> Iterator[Batch]:
        """See `Loader`.

        Raises:
            TrainingError: an image could not be decoded.
        """
        labels = torch.from_numpy(self._dataset.labels)
        if self._running is None:
            self._running = iter(self._loader)
        try:
            for images, rows in self._running:
                self._done += 1
                pixels = channels_first(self._normalized(images))
                yield Batch(pixels, labels[rows].to(images.device), rows.to(images.device))
        except RuntimeError as error:
            raise TrainingError(f"DALI Proxy lost a batch of {self._dataset.place}: {error}") from error
        self._running, self._epoch, self._done = None, self._epoch + 1, 0

    def state(self) -> bytes:
        """See `Loader`."""
        return f"{self._epoch} {self._done}".encode()

    def close(self) -> None:
        """See `Loader`. DALI's server looks up every five seconds only."""
        self._running = None
        self._server.stop_thread()

    def rest_of_epoch(self) -> list[list[int]]:
        """The rows of the batches that are left of this epoch."""
        return _batches(self._order(), self._feed.batch_size, self._policy)[self._done :]

    def _order(self) -> list[int]:
        """This shard's rows of the epoch, in order; DROP and FILL give all shards equally many."""
        n, feed = len(self._dataset), self._feed
        chance = np.random.default_rng([feed.seed, self._epoch])
        order = chance.permutation(n) if feed.look.train else np.arange(n)
        if self._policy == "fill":
            order = np.concatenate([order, order[: -n % feed.shards]])
        elif self._policy == "drop":
            order = order[: n - n % feed.shards]
        return [int(row) for row in order[feed.shard :: feed.shards]]


class _Batches:
    """What `rest` says at the time, each time that the DataLoader begins anew."""

    def __init__(self, rest: Callable[[], list[list[int]]]) -> None:
        self._rest = rest

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._rest())


class _Encoded(TorchDataset[Any]):
    """Row -> its image's bytes, sent to the pipeline, and the row itself."""

    def __init__(self, dataset: Dataset, send: Any) -> None:
        self._dataset, self._send = dataset, send

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self._send(np.frombuffer(image_bytes(self._dataset, row), np.uint8)), row


def _batches(order: list[int], size: int, policy: str) -> list[list[int]]:
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    short = size - len(batches[-1]) if batches else 0
    if short and policy == "drop":
        batches.pop()
    elif short and policy == "fill":
        batches[-1] += [batches[-1][-1]] * short
    return batches


def _allow_cpu_torch() -> None:
    """DALI Proxy marks its work for NVIDIA's profiler, which a torch built without CUDA answers with an error."""
    if torch.version.cuda is None:
        dali_proxy._nvtx = _NoMarks


class _NoMarks:
    @staticmethod
    def range_push(message: str) -> None:
        """Mark nothing."""

    @staticmethod
    def range_pop() -> None:
        """Mark nothing."""
