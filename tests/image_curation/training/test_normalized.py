"""Normalization on the CPU: the values, and memory that is lent again only when nobody can see it any more."""

import numpy as np
import pytest
import torch

from image_curation.training.normalized import Normalizer

MEAN, STD = [10.0, 20.0, 30.0], [2.0, 4.0, 5.0]


def squares(seed: int, images: int = 3, size: int = 40) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (images, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize(("images", "size"), [(1, 1), (3, 40), (2, 224), (0, 8)])
def test_values_are_those_of_the_formula(images, size):
    pixels = squares(0, images, size)
    found = Normalizer(MEAN, STD)(pixels)
    assert found.dtype == torch.float32
    assert found.shape == pixels.shape
    expected = (pixels.double() - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(found.double(), expected, atol=1e-4, rtol=0)


def test_what_is_float_already_stays():
    images = torch.rand(2, 4, 4, 3)
    assert Normalizer(MEAN, STD)(images) is images


def test_memory_of_a_batch_is_used_again_once_no_view_of_it_is_left():
    normalize = Normalizer(MEAN, STD)
    first = normalize(squares(1))
    address, seen = first.data_ptr(), first.permute(0, 3, 1, 2)[1]
    expected = seen.clone()
    del first
    second = normalize(squares(2))
    assert second.data_ptr() != address
    assert torch.equal(seen, expected)
    del seen
    assert normalize(squares(3, images=2)).data_ptr() == address  # a short last batch takes a part of it
