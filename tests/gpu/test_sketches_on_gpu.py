"""Sketches made on a GPU are the bytes that a CPU makes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from image_curation.config import resolve_device
from image_curation.duplicates.sketches import SKETCH_BYTES, train_sketcher

pytestmark = pytest.mark.skipif(resolve_device("auto") != "cuda", reason="no GPU on this machine")


@pytest.mark.parametrize("scale", [1.0, 7.3])
def test_sketches_of_a_gpu_are_those_of_a_cpu_to_the_byte(scale: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50_000, 768)) * np.arange(1, 769) ** -0.4 + 1
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    x[:3], x[3] = np.nan, 0
    sketcher = train_sketcher(x)
    sketcher = replace(sketcher, scale=sketcher.scale * scale)  # 7.3: where components clip and the last is often 0
    host = torch.from_numpy(x)
    on_cpu, on_gpu = sketcher.sketch(host), sketcher.sketch(host.cuda()).cpu()
    assert torch.equal(on_cpu, on_gpu)
    assert len(np.unique(on_cpu.numpy(), axis=0)) > 49_000
    cut = replace(sketcher, cut=12_000)
    pairs = on_gpu[1:], on_gpu[:-1]
    assert torch.equal(cut.may_be_close(*pairs), cut.may_be_close(*(part.cuda() for part in pairs)).cpu())


def test_halves_of_a_step_are_rounded_to_even_on_a_gpu_too() -> None:
    x, k = np.eye(SKETCH_BYTES, dtype=np.float16) * 0.5, SKETCH_BYTES - 1
    directions = np.eye(k, SKETCH_BYTES, dtype=np.float32)
    sketcher = replace(train_sketcher(x), directions=directions, scale=3.0)  # steps of 1.5
    sketcher = replace(sketcher, offsets=np.zeros(k, np.int64))
    found = sketcher.sketch(torch.from_numpy(x).cuda()).cpu()
    assert torch.equal(found[:k, :k], 2 * torch.eye(k, dtype=torch.int8))
