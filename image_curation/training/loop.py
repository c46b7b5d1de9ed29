"""A place with labelled images and a configuration -> a trained model on disk, resumed where a run was killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from typing import Any

import torch

from image_curation import storage
from image_curation.artifacts import digest
from image_curation.errors import ConfigError, TrainingError
from image_curation.training.checkpoint import load_checkpoint, packed, save_checkpoint, unpacked
from image_curation.training.config import TrainConfig
from image_curation.training.dataset import Dataset, open_dataset
from image_curation.training.feeds import threads_of, training_loader, validation_loader
from image_curation.training.learner import Learner
from image_curation.training.loaders import Loader
from image_curation.training.log import TrainLog
from image_curation.training.model_file import save_model
from image_curation.training.pipelines import MEAN, STD
from image_curation.training.processes import Processes, joined_processes
from image_curation.training.readable import unreadable

CHECKPOINT = "checkpoint.pt"
Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Trained:
    """A training that ended: the model's card, and accuracy on the validation images, if there are any."""

    card: dict[str, Any]
    accuracy: float | None


def train(
    place: str,
    out: str,
    config: TrainConfig,
    validation: str | None = None,
    device: str = "auto",
    on_event: OnEvent = lambda event: None,
) -> Trained:
    """Train a classifier and write `model.safetensors`, `model.json`, `log.jsonl` and `checkpoint.pt` into `out`.

    Run under torchrun, each process learns on its own share of the images. Killed and run again with the same arguments
    and number of processes, it goes on from its last checkpoint and, on a CPU, ends with the weights of a run that
    nobody disturbed. (With the proxy loader crops differ; see `ProxyLoader`.)

    Args:
        place: a release, a folder of tars, or class folders.
        out: folder or URL.
        config: what decides the training.
        validation: a place of the same kind; none takes `val_fraction` of the first.
        device: auto, cpu or cuda.
        on_event: called in the first process with what is logged.

    Raises:
        ConfigError, TrainingError: see `open_dataset`, `DaliLoader`, `load_checkpoint`; or the loss is no number.
    """
    with joined_processes(device) as processes:
        learned, judged = _datasets(place, validation, config, processes)
        return train_on(learned, judged, out, config, processes, on_event)


def train_on(
    learned: Dataset,
    judged: Dataset | None,
    out: str,
    config: TrainConfig,
    processes: Processes,
    on_event: OnEvent = lambda event: None,
) -> Trained:
    """As `train` does, on images that are listed, and of which none needs to be left out any more."""
    return _Training(config, learned, judged, out, processes, on_event).run()


def _datasets(
    place: str, validation: str | None, config: TrainConfig, processes: Processes
) -> tuple[Dataset, Dataset | None]:
    """The images to learn from and those to validate with, without what DALI cannot decode."""
    learned = _readable(place, None, config, processes)
    if validation is not None:
        return learned, _readable(validation, learned.classes, config, processes)
    if config.val_fraction:
        learned, judged = learned.split(config.val_fraction)
        if not len(judged):
            raise ConfigError(f"val_fraction={config.val_fraction} of {len(learned)} images should be >= 1 image.")
        return learned, judged
    return learned, None


def _readable(place: str, classes: Sequence[str] | None, config: TrainConfig, processes: Processes) -> Dataset:
    """The first process lists the images; each looks at its share of them, and learns what the others found."""
    dataset = processes.from_first(lambda: open_dataset(place, config.label_field, classes))
    if config.check == "none":
        return dataset
    rows = range(processes.rank, len(dataset), processes.count)
    found = processes.gathered(unreadable(dataset, rows, threads_of(config, processes)))
    return dataset.leave_out({row: reason for part in found for row, reason in part.items()})


class _Training:
    """The state of one process on its way through the epochs."""

    def __init__(
        self,
        config: TrainConfig,
        learned: Dataset,
        judged: Dataset | None,
        out: str,
        processes: Processes,
        on_event: OnEvent,
    ) -> None:
        self._config, self._learned, self._judged = config, learned, judged
        self._out, self._processes, self._on_event = out, processes, on_event
        self._made_by = {
            "fingerprint": digest([config.model_dump(), learned.fingerprint()]),
            "processes": processes.count,
        }
        stored = load_checkpoint(storage.join(out, CHECKPOINT), self._made_by)
        self._epoch = int(stored["epoch"]) if stored else 0
        own = unpacked(stored["loaders"][processes.rank]) if stored else None
        self._loader: Loader = training_loader(config, learned, processes, own)
        self._steps = config.total_steps(self._loader.steps)
        self._learner = Learner(config, len(learned.classes), self._loader.steps, processes)
        if stored:
            self._learner.restore(stored)
            self._set_chance(stored["chance"][processes.rank])
        self._log = TrainLog(out, self._learner.step) if processes.first else None
        self._validated: dict[str, float] = dict(stored["validated"]) if stored else {}

    def run(self) -> Trained:
        """All epochs that are left, then the model."""
        with closing(self._loader), closing(self._log) if self._log else nullcontext():  # also where it fails
            self._tell("start", images=len(self._learned), classes=len(self._learned.classes), **self._facts())
            for epoch in range(self._epoch, ceil(self._steps / self._loader.steps)):
                self._learn_epoch(epoch)
                self._validate(epoch)
                self._save(epoch + 1)
        card = self._card()
        if self._processes.first:
            save_model(self._out, self._learner.best_weights(), card)
        self._tell("done", **self._validated)
        if self._log:
            self._log.close()
        self._processes.wait()
        return Trained(card, self._validated.get("accuracy"))

    def _learn_epoch(self, epoch: int) -> None:
        window = _Window(self._processes)
        every = self._config.checkpoint_steps
        for batch in self._loader.epoch():
            window.add(self._learner.learn(batch), len(batch.labels))
            step = self._learner.step
            if step % self._config.log_steps == 0:
                self._report(epoch, window.take())
            if every and step % every == 0:
                self._save(epoch)
                window.start()
            if step == self._steps:
                break

    def _report(self, epoch: int, measured: dict[str, float]) -> None:
        if measured["loss"] != measured["loss"]:
            raise TrainingError(
                f"the loss is no number after step {self._learner.step}: lower --lr, or lengthen --warmup-epochs, and "
                "begin anew in another place, since the checkpoint may be spoilt too."
            )
        self._tell("train", epoch=epoch, lr=self._learner.rate, **measured)

    def _validate(self, epoch: int) -> None:
        if self._judged is None:
            return
        with closing(validation_loader(self._config, self._judged, self._processes)) as loader:
            loss, right, images = self._learner.validate(loader).tolist()
        self._validated = {"loss": loss / images, "accuracy": right / images, "images": images}
        self._tell("validation", epoch=epoch, **self._validated)

    def _save(self, epoch: int) -> None:
        """A checkpoint of all processes: what they share from the first, what each has of its own from each."""
        own = self._processes.gathered((packed(self._loader.state()), self._chance()))
        if self._log:
            self._log.close()  # before the checkpoint: what is not in it is logged again
            state = self._learner.state() | {
                "epoch": epoch,
                "loaders": [loader for loader, _ in own],
                "chance": [chance for _, chance in own],
                "validated": self._validated,
            }
            save_checkpoint(storage.join(self._out, CHECKPOINT), self._made_by, state)
        self._processes.wait()

    def _chance(self) -> list[torch.Tensor]:
        """The random states behind dropout in this process, on the CPU."""
        states = [torch.get_rng_state()]
        if self._processes.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._processes.device))
        return states

    def _set_chance(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._processes.device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._processes.device)

    def _tell(self, event: str, **facts: Any) -> None:
        if self._log:
            told = {"event": event, "step": self._learner.step, **facts}
            self._log.add(told)
            self._on_event(told)

    def _facts(self) -> dict[str, Any]:
        return {
            "left_out": dict(self._learned.left_out),
            "validation_images": len(self._judged) if self._judged else 0,
            "steps": self._steps,
            "processes": self._processes.count,
            "device": str(self._processes.device.type),
        }

    def _card(self) -> dict[str, Any]:
        """What whoever finds the model should know. It names no time and no machine."""
        return {
            "config": self._config.model_dump(),
            "classes": list(self._learned.classes),
            "source": dict(self._learned.source),
            "dataset_fingerprint": self._learned.fingerprint(),
            "images": len(self._learned),
            "left_out": dict(self._learned.left_out),
            "steps": self._learner.step,
            "processes": self._processes.count,
            "averaged_weights": self._config.ema > 0,
            "validation": self._validated,
            "preprocessing": {
                "size": self._config.image_size,
                "resize": 256 / 224,
                "mean": MEAN,
                "std": STD,
                "of": 255,
            },
            "versions": {name: version(name) for name in ("image-curation", "torch", "timm")},
        }


class _Window:
    """Loss, accuracy and images/s since the last report, over all processes."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._sums: torch.Tensor | None = None
        self._images = 0
        self._begin = time.perf_counter()

    def add(self, sums: torch.Tensor, images: int) -> None:
        """Take in a step. Nothing is waited for: on a GPU it may not have been done yet."""
        self._sums = sums if self._sums is None else self._sums + sums
        self._images += images

    def take(self) -> dict[str, float]:
        """What was measured, and begin anew."""
        assert self._sums is not None  # a step was taken in
        loss, right = self._processes.summed(self._sums).tolist()  # waits for the GPU
        images = self._images * self._processes.count
        rate = images / (time.perf_counter() - self._begin)
        self.start()
        return {"loss": loss / images, "accuracy": right / images, "images_per_s": round(rate, 1)}
