"""Training data and training on a GPU: exact epochs, the same order again, a model that learns. Skipped without one."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_curation.config import gpu_count, resolve_device
from image_curation.training.config import TrainConfig
from image_curation.training.dataset import Dataset, open_dataset
from image_curation.training.loaders import DaliLoader, Feed
from image_curation.training.loop import train
from image_curation.training.pipelines import Look

pytestmark = pytest.mark.skipif(resolve_device("auto") != "cuda", reason="no GPU on this machine")

N = 139
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """139 pictures, dark ones and light ones."""
    folder = tmp_path_factory.mktemp("classes")
    for i in range(N):
        noise = np.random.default_rng(i).integers(0, 90, (96, 128, 3), dtype=np.uint8) + 150 * (i % 2)
        sink = io.BytesIO()
        Image.fromarray(noise.astype(np.uint8)).save(sink, "JPEG")
        path = folder / ("dark", "light")[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sink.getvalue())
    return folder


@pytest.fixture(scope="module")
def dataset(place) -> Dataset:
    return open_dataset(str(place))


def loader(dataset: Dataset, decoder: str, policy: str, state: bytes | None = None, augmentation: str = "none"):
    look = Look(64, True, augmentation, "gpu", decoder)
    return DaliLoader(dataset, Feed(look, 16, threads=4, policy=policy, device_id=0, seed=5), state)


@pytest.mark.parametrize("decoder", ["cpu", "mixed"])
def test_epochs_are_exact_and_images_are_on_the_gpu(dataset, decoder):
    made = loader(dataset, decoder, "partial")
    for _ in range(3):
        batches = list(made.epoch())
        assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(N))
        for batch in batches:
            assert batch.images.is_cuda
            assert batch.labels.tolist() == dataset.labels[batch.rows.cpu().numpy()].tolist()


@pytest.mark.parametrize("augmentation", ["none", "auto", "trivial"])
@pytest.mark.parametrize("decoder", ["cpu", "mixed"])
def test_restored_mid_epoch_the_order_is_the_same_and_so_are_the_crops(dataset, decoder, augmentation):
    made = loader(dataset, decoder, "drop", augmentation=augmentation)
    epoch = made.epoch()
    for _ in range(3):
        next(epoch)
    again = loader(dataset, decoder, "drop", made.state(), augmentation)
    for rest in (epoch, made.epoch()):
        expected, found = list(rest), list(again.epoch())
        assert [batch.rows.tolist() for batch in found] == [batch.rows.tolist() for batch in expected]
        for one, other in zip(expected, found, strict=True):
            assert (one.images - other.images).abs().mean() < 0.01


def test_model_learns_in_bf16_and_goes_on_from_its_checkpoint(place, tmp_path):
    config = TrainConfig(
        model="resnet18", image_size=64, batch_size=16, epochs=4, val_fraction=0.2, ema=0.9, warmup_epochs=1, lr=0.4
    )
    told: list = []
    trained = train(str(place), str(tmp_path), config, on_event=told.append)
    assert trained.accuracy == 1.0
    again: list = []
    assert train(str(place), str(tmp_path), config, on_event=again.append).card == trained.card
    assert [event["event"] for event in again] == ["start", "done"]
    assert again[0]["step"] == told[-1]["step"]


def two_processes(place: Path, out: Path, *settings: str) -> list[str]:
    """`image-curation train` on two GPUs: 139 images, two epochs of eight steps."""
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*starter, "-m", "image_curation", "train", str(place), str(out), "--model", "resnet18", "--epochs", "2"]
    given = ("batch_size=8", "image_size=64", *settings)
    return [*words, *(word for setting in given for word in ("--set", setting))]


def run(words: list[str]) -> str:
    """What it says."""
    done = subprocess.run(words, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "do not match bucket view strides" not in done.stderr  # gradients would be copied in each step
    return done.stdout


def stored(out: Path) -> dict:
    return torch.load(out / "checkpoint.pt", weights_only=True)["state"]


@pytest.mark.skipif(gpu_count() < 2, reason="fewer than two GPUs")
def test_two_gpus_share_the_images(place, tmp_path):
    assert "139 images of 2 classes, 2 x cuda" in run(two_processes(place, tmp_path))
    assert stored(tmp_path)["step"] == 2 * (N // 2 // 8)


@pytest.mark.skipif(gpu_count() < 2, reason="fewer than two GPUs")
def test_two_gpus_killed_and_run_again_do_the_steps_that_are_left(place, tmp_path, start_and_kill):
    words = two_processes(place, tmp_path, "checkpoint_steps=2", "log_steps=1", "val_fraction=0.1")
    start_and_kill(words, tmp_path / "checkpoint.pt")
    assert not (tmp_path / "model.safetensors").exists()
    step = stored(tmp_path)["step"]
    assert step > 0
    assert f"2 x cuda, from step {step}\n" in run(words)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["event"] == "train"]
    assert steps == list(range(1, stored(tmp_path)["step"] + 1))
    assert len([line for line in lines if line["event"] == "validation"]) == 2
    assert (tmp_path / "model.safetensors").exists()
