"""The weights of a model, step by step -> their exponential moving average, which is what is validated and saved."""

from typing import Any

import torch
from torch import nn


class AveragedWeights:
    """A running average of all floating-point weights and buffers of a model; integers are those of the last step.

    In the first steps the decay is smaller, (1 + n) / (10 + n) after n steps, so that the random start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        floats = [name for name, value in self.weights.items() if value.is_floating_point()]
        torch._foreach_lerp_(  # one kernel for all of them
            [self.weights[name] for name in floats], [current[name] for name in floats], 1 - decay
        )
        for name in self.weights.keys() - set(floats):
            self.weights[name].copy_(current[name])

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"updates": self.updates, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a stored average."""
        self.updates = int(state["updates"])
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)
