"""Loaders: the same order again from a stored place, pixels as others see them, DALI Proxy, what goes wrong."""

import io
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image

from image_curation.errors import TrainingError
from image_curation.training.dataset import open_dataset
from image_curation.training.loaders import DaliLoader, Feed
from image_curation.training.pipelines import MEAN, STD, Look
from image_curation.training.proxy import ProxyLoader

BATCH = 16


def feed(train: bool = True, **options) -> Feed:
    look = Look(32, train, options.pop("augmentation", "none"))
    return Feed(look, BATCH, threads=1, **options)


def take(loader, batches: int) -> list[torch.Tensor]:
    """Rows and images of the next batches, across epochs."""
    found = []
    while len(found) < batches:
        epoch = [batch for _, batch in zip(range(batches - len(found)), loader.epoch(), strict=False)]
        found += [(batch.rows.clone(), batch.images.clone()) for batch in epoch]
    return found


@pytest.mark.parametrize(("shard", "shards"), [(0, 1), (1, 2)])
def test_restored_mid_epoch_the_rest_and_the_next_epochs_are_bit_identical(dataset, shard, shards):
    assert_restorable(dataset, feed(shard=shard, shards=shards, seed=7, buffer=40))


@pytest.mark.parametrize("augmentation", ["auto", "trivial"])
def test_restored_augmentations_are_bit_identical_too(tars, augmentation):
    assert_restorable(open_dataset(str(tars)), feed(augmentation=augmentation, shard=1, shards=2))


def assert_restorable(dataset, how: Feed) -> None:
    loader = DaliLoader(dataset, how)
    before = loader.steps + 2  # into the second epoch
    take(loader, before)
    state = loader.state()
    expected = take(loader, 2 * loader.steps)
    found = take(DaliLoader(dataset, how, state), 2 * loader.steps)
    assert len({tuple(rows.tolist()) for rows, _ in found}) == len(found) > 5
    for (rows, images), (rows_again, images_again) in zip(expected, found, strict=True):
        assert torch.equal(rows, rows_again)
        assert torch.equal(images, images_again)


@pytest.mark.parametrize("policy", ["partial", "drop", "fill"])
def test_state_at_the_end_of_an_epoch_gives_an_empty_rest(dataset, policy):
    loader = DaliLoader(dataset, feed(policy=policy))
    epoch = loader.epoch()
    for _ in range(loader.steps):
        next(epoch)
    state = loader.state()
    assert list(epoch) == []
    following = [batch.rows.tolist() for batch in loader.epoch()]
    again = DaliLoader(dataset, feed(policy=policy), state)
    assert list(again.epoch()) == []
    assert [batch.rows.tolist() for batch in again.epoch()] == following


def test_equal_seeds_give_equal_epochs_and_others_do_not(dataset):
    def order(seed):
        return [batch.rows.tolist() for batch in DaliLoader(dataset, feed(seed=seed)).epoch()]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_samples_of_all_tars_are_mixed_even_with_a_small_buffer(tars):
    """A release lies in order of its keys, so one tar may be one class; the first batches must not be of one tar."""
    dataset = open_dataset(str(tars))
    loader = DaliLoader(dataset, feed(buffer=8))
    files = {int(dataset.file[row]) for rows, _ in take(loader, 7) for row in rows.tolist()}
    assert files == {0, 1, 2}


def test_validation_pixels_are_pillows(dataset):
    """DALI's linear filter with antialiasing is Pillow's BILINEAR; fractions of a pixel are left between them."""
    loader = DaliLoader(dataset, feed(train=False, policy="partial"))
    batch = next(loader.epoch())
    distances = []
    for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
        with open(dataset.files[dataset.file[row]], "rb") as file:
            file.seek(dataset.offset[row])
            pillow = Image.open(io.BytesIO(file.read(dataset.size[row]))).convert("RGB")
        short = round(32 * 256 / 224)
        width, height = (round(side * short / min(pillow.size)) for side in pillow.size)
        left, top = (width - 31) // 2, (height - 31) // 2
        expected = np.asarray(pillow.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        expected = expected[top : top + 32, left : left + 32]
        found = image.permute(1, 2, 0).numpy() * np.array(STD) + np.array(MEAN)
        distances.append(np.abs(found - expected).mean())
    assert len(distances) == BATCH
    assert max(distances) < 2
    assert np.mean(distances) < 1


def test_training_crops_are_random_mirrored_and_normalized(workshop, write_folders, tmp_path):
    """An image that is black at its left and white at its right: both orders come, and values are ImageNet's bounds."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    dataset = open_dataset(str(write_folders(tmp_path, {f"a/{i:02d}.png": sink.getvalue() for i in range(64)})))
    images = torch.cat([images for _, images in take(DaliLoader(dataset, feed()), 4)])
    assert images.shape == (64, 3, 32, 32)
    assert images.dtype == torch.float32
    low, high = (torch.tensor([(value - m) / s for m, s in zip(MEAN, STD, strict=True)]) for value in (0, 255))
    assert torch.allclose(images.amin((0, 2, 3)), low, atol=1e-4)
    assert torch.allclose(images.amax((0, 2, 3)), high, atol=1e-4)
    brighter_right = (images[..., -1].mean((1, 2)) > images[..., 0].mean((1, 2))).sum().item()
    brighter_left = (images[..., -1].mean((1, 2)) < images[..., 0].mean((1, 2))).sum().item()
    assert min(brighter_right, brighter_left) > 10
    assert len({image.numpy().tobytes() for image in images}) > 40


@pytest.mark.parametrize("augmentation", ["auto", "trivial"])
def test_augmentation_changes_images_and_keeps_their_shape(tars, augmentation):
    dataset = open_dataset(str(tars))
    plain, other = (take(DaliLoader(dataset, feed(augmentation=name)), 2) for name in ("none", augmentation))
    for (rows, images), (rows_again, augmented) in zip(plain, other, strict=True):
        assert torch.equal(rows, rows_again)
        assert augmented.shape == images.shape
        assert (augmented - images).abs().mean() > 0.1


def test_image_that_broke_since_it_was_listed_is_an_error_that_says_what_to_do(write_folders, workshop, tmp_path):
    files = {f"a/{i:02d}.jpg": workshop.photo(i) for i in range(BATCH)}
    dataset = open_dataset(str(write_folders(tmp_path, files | {"a/03.jpg": workshop.photo(3)[:-40]})))
    with pytest.raises(TrainingError, match=r"a/03\.jpg.*train with --check decode"):
        list(DaliLoader(dataset, feed(policy="partial")).epoch())


def test_proxy_with_workers_gives_images_and_labels_of_their_rows(tars):
    dataset = open_dataset(str(tars))
    how = feed(train=False, policy="partial")
    expected = {
        row: image
        for rows, images in take(DaliLoader(dataset, how), 9)
        for row, image in zip(rows.tolist(), images, strict=True)
    }
    seen = 0
    with closing(ProxyLoader(dataset, how, workers=2)) as loader:
        for batch in loader.epoch():
            assert batch.labels.tolist() == dataset.labels[batch.rows.numpy()].tolist()
            for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
                assert torch.equal(image, expected[row])
                seen += 1
    assert seen == 139


def test_proxy_restored_mid_epoch_goes_on_with_the_same_order(tars):
    dataset, how = open_dataset(str(tars)), feed(seed=3, shard=1, shards=2)
    with closing(ProxyLoader(dataset, how, workers=1)) as loader:
        take(loader, loader.steps + 2)
        state = loader.state()
        expected = [rows.tolist() for rows, _ in take(loader, 10)]
    with closing(ProxyLoader(dataset, how, state, workers=2)) as again:
        assert [rows.tolist() for rows, _ in take(again, 10)] == expected
