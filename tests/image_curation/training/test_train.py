"""Training as its users run it: one process and two, killed on the way and run again, and what it leaves behind."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import torch

from image_curation.errors import ConfigError, TrainingError
from image_curation.training.config import TrainConfig
from image_curation.training.dataset import open_dataset
from image_curation.training.loop import CHECKPOINT, train
from image_curation.training.model_file import load_model

TINY = {"model": "test_resnet", "image_size": 32, "batch_size": 8, "ema": 0.9, "warmup_epochs": 1, "amp": "none"}
REPOSITORY = Path(__file__).resolve().parents[3]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # many processes on few cores would wait for each other's threads


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**changes) -> TrainConfig:
    return TrainConfig(**TINY | {"log_steps": 1, "threads": 1} | changes)


def command(processes: int, place: Path, out: Path, **settings) -> list[str]:
    """`image-curation train` alone, or under torchrun."""
    given = TINY | {"log_steps": 1, "threads": 1, "checkpoint_steps": 2} | settings
    options = [word for name, value in given.items() for word in ("--set", f"{name}={value}") if name != "model"]
    starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    own = ["-m", "image_curation", "train", str(place), str(out), "--model", TINY["model"], "--device", "cpu"]
    return [sys.executable, *starter, *own, *options]


def run(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        words, cwd=REPOSITORY, env=ONE_THREAD, capture_output=True, text=True, check=True, timeout=240
    )


def events(out: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_mid_epoch_and_run_again_it_ends_with_the_same_weights(release, tmp_path, start_and_kill, processes):
    settings = {"label_field": "tree", "epochs": 2, "val_fraction": 0.2, "batch_size": 4}
    said = run(command(processes, release, tmp_path / "whole", **settings)).stdout
    assert said.count(f"40 images of 2 classes, {processes} x cpu, from the start") == 1
    assert len(events(tmp_path / "whole", "train")) == 2 * 40 // (4 * processes)  # two epochs, each process its share
    words = command(processes, release, tmp_path / "killed", **settings)
    start_and_kill(words, tmp_path / "killed" / CHECKPOINT)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    stopped = torch.load(tmp_path / "killed" / CHECKPOINT, weights_only=True)["state"]
    said = run(words).stdout
    assert f"from step {stopped['step']}" in said
    assert stopped["step"] > 0
    assert len(stopped["loaders"]) == len(stopped["chance"]) == processes
    whole, again = (events(tmp_path / name, "train") for name in ("whole", "killed"))
    assert [event["step"] for event in again] == [event["step"] for event in whole] == list(range(1, len(whole) + 1))
    assert [event["loss"] for event in again] == [event["loss"] for event in whole]
    validated = [[e["accuracy"] for e in events(tmp_path / name, "validation")] for name in ("whole", "killed")]
    assert validated[0] == validated[1]
    assert len(validated[0]) == 2
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert models[0] == models[1]


def test_model_learns_what_can_be_learned(tmp_path, workshop, write_folders):
    """Black and white: a model that sees its images must tell them apart at once."""
    from io import BytesIO

    from PIL import Image

    def plain(value: int) -> bytes:
        sink = BytesIO()
        Image.new("RGB", (40, 40), (value, value, value)).save(sink, "JPEG")
        return sink.getvalue()

    files = {f"{name}/{i:02d}.jpg": plain(base + i) for name, base in (("dark", 0), ("light", 200)) for i in range(40)}
    place = str(write_folders(tmp_path / "data", files))
    trained = train(place, str(tmp_path / "out"), config(epochs=4, val_fraction=0.25, lr=0.5), device="cpu")
    assert trained.accuracy == 1.0
    model, card = load_model(str(tmp_path / "out" / "model.safetensors"))
    assert card["classes"] == ["dark", "light"]
    mean = torch.tensor([[[[-2.0]]], [[[2.0]]]]).expand(2, 3, 32, 32)
    assert model(mean).argmax(1).tolist() == [0, 1]


def test_model_file_names_the_release_by_its_hash(release, tmp_path):
    told = []
    out = tmp_path / "out"
    train(str(release), str(out), config(epochs=1, label_field="tree"), device="cpu", on_event=told.append)
    manifest = hashlib.sha256((release / "manifest.json").read_bytes()).hexdigest()
    with safetensors.safe_open(out / "model.safetensors", framework="pt") as file:
        assert file.metadata()["release_manifest_sha256"] == manifest
        assert json.loads(file.metadata()["image_curation"]) == json.loads((out / "model.json").read_text())
    card = json.loads((out / "model.json").read_text())
    assert card["source"]["manifest_sha256"] == manifest
    assert card["images"] == 48
    assert card["left_out"] == {"format_not_trained_on": 2}
    assert [event["event"] for event in told] == ["start", *["train"] * 6, "done"]
    assert all(event["images_per_s"] > 0 and event["lr"] > 0 for event in told[1:-1])


@pytest.mark.parametrize("loader", ["proxy", "synthetic"])
@pytest.mark.parametrize("amp", ["bf16"])
def test_other_loaders_and_bf16_train_too(release, tmp_path, loader, amp):
    settings = config(
        epochs=1, label_field="tree", loader=loader, amp=amp, checkpoint_steps=3, optimizer="adamw", lr=1e-3
    )
    trained = train(str(release), str(tmp_path), settings, device="cpu")
    assert trained.card["steps"] == 6


def test_training_can_end_in_the_midst_of_an_epoch(folders, tmp_path):
    told = []
    settings = config(steps=20, val_fraction=0.1)  # an epoch has 15
    trained = train(str(folders), str(tmp_path), settings, device="cpu", on_event=told.append)
    assert trained.card["steps"] == 20
    assert [event["epoch"] for event in told if event["event"] == "validation"] == [0, 1]
    assert told[-3]["lr"] == pytest.approx(
        0.1 * 8 / 256 * 0.5 * (1 + math.cos(math.pi * 4 / 5))
    )  # 15 of warm-up, 5 down


def test_checkpoint_of_other_settings_is_refused(folders, tmp_path):
    train(str(folders), str(tmp_path), config(epochs=1), device="cpu")
    with pytest.raises(TrainingError, match=r"is of another training.*Give the same data, options and number"):
        train(str(folders), str(tmp_path), config(epochs=2), device="cpu")


def test_spoilt_checkpoint_is_refused_and_runs_no_code(folders, tmp_path):
    import pickle

    (tmp_path / CHECKPOINT).write_bytes(pickle.dumps(print))
    with pytest.raises(TrainingError, match="is no checkpoint that can be read"):
        train(str(folders), str(tmp_path), config(epochs=1), device="cpu")


def test_weights_to_begin_with_must_fit(folders, tmp_path):
    train(str(folders), str(tmp_path / "a"), config(epochs=1), device="cpu")
    weights = str(tmp_path / "a" / "model.safetensors")
    train(str(folders), str(tmp_path / "b"), config(epochs=1, weights=weights), device="cpu")
    with pytest.raises(TrainingError, match="it is of another architecture"):
        train(str(folders), str(tmp_path / "c"), config(epochs=1, weights=weights, model="test_vit"), device="cpu")


def test_unknown_model_is_refused_with_names_near_it(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"no model 'resnet51'"):
        train(str(folders), str(tmp_path), config(model="resnet51"), device="cpu")


def test_wrong_setting_is_refused_by_name(folders, tmp_path):
    words = command(1, folders, tmp_path, batch_sise=4)
    done = subprocess.run(
        words, cwd=REPOSITORY, env=ONE_THREAD, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "batch_sise: Extra inputs are not permitted" in done.stderr


def test_validation_place_uses_the_classes_of_training(folders, tars, tmp_path):
    trained = train(str(folders), str(tmp_path), config(epochs=1, label_field="tree.genus"), str(tars), device="cpu")
    assert trained.card["validation"]["images"] == 139
    assert len(open_dataset(str(tars), "tree.genus").classes) == 3


def test_loss_that_is_no_number_stops_the_training(folders, tmp_path):
    with pytest.raises(TrainingError, match="the loss is no number after step"):
        train(str(folders), str(tmp_path), config(epochs=3, lr=1e30, warmup_epochs=0), device="cpu")
    assert [event["step"] for event in events(tmp_path, "train")] == [1]  # the log says how it came to that
