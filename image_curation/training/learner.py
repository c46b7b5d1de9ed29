"""A batch -> a step of learning: the model, its optimizer, its rate and its averaged weights, in one place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from image_curation.training.averaged import AveragedWeights
from image_curation.training.config import TrainConfig
from image_curation.training.loaders import Batch, Loader
from image_curation.training.model_file import begin_with, create_model
from image_curation.training.processes import Processes
from image_curation.training.schedule import learning_rate

_IMAGES_OF_RATE = 256  # a step's images for which `lr` is meant
_MOMENTUM = 0.9


class Learner:
    """Learns on one process, or on many that share their gradients (DistributedDataParallel).

    Args:
        config: what decides the training.
        classes: how many.
        steps: of an epoch.
        processes: this one and how many there are.
    """

    def __init__(self, config: TrainConfig, classes: int, steps: int, processes: Processes) -> None:
        self._config, self._processes, self._epoch_steps, self._classes = config, processes, steps, classes
        torch.backends.cudnn.benchmark = True  # all batches have one shape
        torch.manual_seed(config.seed)  # equal random weights in all processes
        model = create_model(config.model, classes)
        if config.weights:
            begin_with(model, config.weights)
        self.model = _placed(model, processes).train()
        self.averaged = AveragedWeights(self.model, config.ema) if config.ema else None
        self._optimizer = _optimizer(config, self.model)
        self._trained: Any = self._wrapped()
        torch.manual_seed(config.seed + 1 + processes.rank)  # dropout of their own
        self.step = 0

    def learn(self, batch: Batch) -> torch.Tensor:
        """One step; the sums of loss and of right answers over the batch, float32 [2], on the device."""
        self._set_rate()
        with self._precision():
            scores = self._trained(batch.images.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(scores.float(), batch.labels, label_smoothing=self._config.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        if self.averaged:
            self.averaged.update()
        return _sums(scores, batch.labels, loss)

    @torch.inference_mode()
    def validate(self, loader: Loader) -> torch.Tensor:
        """Sums of loss and of right answers over all images of all processes, and their number: float64 [3]."""
        model = self._judged()
        total = torch.zeros(3, dtype=torch.float64, device=self._processes.device)
        for batch in loader.epoch():
            if len(batch.labels):  # of uneven shards the last batch can be empty
                with self._precision():
                    scores = model(batch.images.contiguous(memory_format=torch.channels_last))
                loss = cross_entropy(scores.float(), batch.labels)
                total[:2] += _sums(scores, batch.labels, loss)
                total[2] += len(batch.labels)
        return self._processes.summed(total)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def best_weights(self) -> dict[str, torch.Tensor]:
        """What is saved: the averaged weights, if any are kept, as the first process has them."""
        return self.averaged.weights if self.averaged else self.model.state_dict()

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs but what each process has of its own."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "averaged": self.averaged.state() if self.averaged else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self.step = int(state["step"])
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self.averaged:
            self.averaged.restore(state["averaged"])

    def _wrapped(self) -> Any:
        trained: Any = self.model
        if self._processes.count > 1:
            ids = [self._processes.local] if self._processes.device.type == "cuda" else None
            trained = DistributedDataParallel(trained, device_ids=ids, gradient_as_bucket_view=True)
            # Norms' statistics: those of the first process are saved, and training uses nobody's. (The argument's name
            # depends on the version of torch.)
            trained.broadcast_buffers = False
        return torch.compile(trained) if self._config.compile else trained

    def _judged(self) -> nn.Module:
        """A model for validation with the weights that would be saved: equal in all processes."""
        model = create_model(self._config.model, self._classes)
        model.load_state_dict(self.best_weights())
        model = _placed(model, self._processes).eval()
        if self._processes.count > 1:
            for value in model.state_dict().values():
                dist.broadcast(value, 0)  # statistics of norms differ from one process to another
        return model

    def _precision(self) -> AbstractContextManager[Any]:
        if self._config.amp == "none":
            return nullcontext()
        return torch.autocast(self._processes.device.type, torch.bfloat16)

    def _set_rate(self) -> None:
        images = self._config.batch_size * self._processes.count
        steps, warmup = self._config.total_steps(self._epoch_steps), int(self._config.warmup_epochs * self._epoch_steps)
        rate = learning_rate(self.step, steps, warmup, self._config.lr * images / _IMAGES_OF_RATE)
        for group in self._optimizer.param_groups:
            group["lr"] = rate


def _placed(model: nn.Module, processes: Processes) -> nn.Module:
    placed: nn.Module = model.to(processes.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Biases and norms, which have one dimension, do not decay."""
    weights = [value for value in model.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in weights if value.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [value for value in weights if value.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = weights[0].is_cuda
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return torch.optim.SGD(groups, lr=config.lr, momentum=_MOMENTUM, nesterov=True, fused=fused)


def _sums(scores: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    right = (scores.detach().argmax(1) == labels).sum()
    return torch.stack([loss.detach() * len(labels), right.float()])
