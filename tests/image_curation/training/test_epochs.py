"""Exact epochs: which samples come, under each policy, over several epochs and shards, by both readers."""

from collections import Counter

import pytest
import torch
from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy

from image_curation.errors import ConfigError
from image_curation.training.dataset import open_dataset
from image_curation.training.epochs import check_epochs
from image_curation.training.loaders import DaliLoader, Feed, steps_of
from image_curation.training.pipelines import READER, Look, Reading, reading_pipeline
from image_curation.training.proxy import ProxyLoader

EPOCHS, BATCH = 6, 16  # without padding, DROP keeps its word for three epochs and breaks it in the fourth
SHARDS = pytest.mark.parametrize("shards", [1, 2, 3])
TRAIN = pytest.mark.parametrize("train", [True, False])


def loaders(dataset, shards: int, policy: str, train: bool = True) -> list[DaliLoader]:
    look = Look(8, train)
    return [DaliLoader(dataset, Feed(look, BATCH, 1, shard, shards, policy)) for shard in range(shards)]


def epoch_of(all_shards) -> tuple[list[int], list[int]]:
    """Row numbers that all shards gave in their next epoch, and how many batches each gave."""
    rows, batches = [], []
    for loader in all_shards:
        found = list(loader.epoch())
        rows += [row for batch in found for row in batch.rows.tolist()]
        batches.append(len(found))
    return rows, batches


@SHARDS
@TRAIN
def test_partial_gives_every_sample_exactly_once(dataset, shards, train):
    readers = loaders(dataset, shards, "partial", train)
    orders = []
    for _ in range(EPOCHS):
        rows, batches = epoch_of(readers)
        assert sorted(rows) == list(range(139))
        assert max(batches) == readers[0].steps
        orders.append(rows)
    if train:
        assert len({tuple(order) for order in orders}) == EPOCHS
    elif shards == 1:
        assert orders == [list(range(139))] * EPOCHS


@SHARDS
def test_drop_gives_no_sample_twice_and_all_shards_the_same_number_of_batches(dataset, shards):
    readers = loaders(dataset, shards, "drop")
    steps = {1: 8, 2: 4, 3: 2}[shards]  # 139, 69 and 46 samples of a shard, in batches of 16
    for _ in range(EPOCHS):
        rows, batches = epoch_of(readers)
        assert batches == [steps] * shards == [readers[0].steps] * shards
        assert len(set(rows)) == len(rows) == steps * shards * BATCH


@SHARDS
def test_fill_gives_every_sample_at_least_once_and_full_batches(dataset, shards):
    readers = loaders(dataset, shards, "fill")
    steps = {1: 9, 2: 5, 3: 3}[shards]
    for _ in range(EPOCHS):
        rows, batches = epoch_of(readers)
        assert batches == [steps] * shards == [readers[0].steps] * shards
        assert set(rows) == set(range(139))
        assert len(rows) == steps * shards * BATCH


def test_images_and_labels_belong_to_their_rows(dataset):
    (plain,) = loaders(dataset, 1, "partial", train=False)
    (shuffled,) = loaders(dataset, 1, "partial", train=True)
    seen = Counter()
    for loader in (plain, shuffled):
        for batch in loader.epoch():
            assert batch.images.shape[1:] == (3, 8, 8)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.labels.tolist() == dataset.labels[batch.rows.numpy()].tolist()
            seen.update(batch.rows.tolist())
    assert set(seen.values()) == {2}


@pytest.mark.parametrize("policy", ["partial", "fill", "drop"])
def test_unpadded_epochs_are_refused_with_the_reason(dataset, policy):
    with pytest.raises(ConfigError, match=f"pad_last_batch=false with last_batch_policy='{policy}'.*epochs drift"):
        DaliLoader(dataset, Feed(Look(8, True), BATCH, policy=policy, pad_last_batch=False))


def test_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match="'last' should be one of partial, drop, fill"):
        check_epochs(True, "last")


def promise_held(policy: LastBatchPolicy, epoch: list[int]) -> bool:
    """What the table of `epochs` says of the policy with padding."""
    twice, missing = len(epoch) - len(set(epoch)), 139 - len(set(epoch))
    broken = {LastBatchPolicy.PARTIAL: twice or missing, LastBatchPolicy.DROP: twice, LastBatchPolicy.FILL: missing}
    return not broken[policy]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("policy", list(LastBatchPolicy))
def test_dali_itself_keeps_its_word_only_with_padding(folders, policy, padded):
    """Why the others are refused. Once this fails, DALI has changed, and the table of `epochs` with it."""
    paths = sorted(str(path) for path in folders.rglob("*.jpg"))
    reading = Reading(paths, None, list(range(139)), 0, 1, 0, True, padded, 1)
    pipeline = reading_pipeline(reading, Look(8, False), batch_size=BATCH, num_threads=1, device_id=None)
    iterator = DALIClassificationIterator([pipeline], reader_name=READER, last_batch_policy=policy, auto_reset=True)
    epochs = [[row for (out,) in iterator for row in out["label"].reshape(-1).tolist()] for _ in range(EPOCHS)]
    assert all(len(epoch) > 100 for epoch in epochs)
    assert all(promise_held(policy, epoch) for epoch in epochs) == padded


def test_batches_that_no_shard_could_fill_are_refused(dataset):
    with pytest.raises(ConfigError, match="batch_size=64 should be <= 46, the images that each of 3 processes gets"):
        DaliLoader(dataset, Feed(Look(8, True), 64, shard=0, shards=3))


def test_more_processes_than_images_are_refused(dataset):
    with pytest.raises(ConfigError, match="139 images, which should be >= 200 processes"):
        DaliLoader(dataset, Feed(Look(8, True), 1, shard=0, shards=200))


@SHARDS
@pytest.mark.parametrize("policy", ["partial", "drop", "fill"])
def test_proxy_plans_epochs_that_keep_the_same_words(folders, shards, policy):
    """What each shard's workers are told to read; no worker is started for it."""
    dataset = open_dataset(str(folders))
    feeds = [Feed(Look(8, True), BATCH, 1, shard, shards, policy) for shard in range(shards)]
    orders = set()
    for epoch in range(3):
        parts = [ProxyLoader(dataset, feed, b"%d 0" % epoch).rest_of_epoch() for feed in feeds]
        rows = [row for part in parts for batch in part for row in batch]
        assert max(map(len, parts)) == steps_of(dataset, feeds[0], policy)
        orders.add(tuple(rows))
        if policy != "partial":
            assert {len(part) for part in parts} == {steps_of(dataset, feeds[0], policy)}
            assert {len(batch) for part in parts for batch in part} == {BATCH}
        if policy != "drop":
            assert set(rows) == set(range(139))
        if policy != "fill":
            assert len(rows) == len(set(rows))
    assert len(orders) == 3
