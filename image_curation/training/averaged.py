"""The weights of a model, step by step -> their exponential moving average, which is what is validated and saved."""

from typing import Any

import torch
from torch import nn


class AveragedWeights:
    """A running average of all floating-point weights and buffers of a model; integers are those of the last step.

    In the first steps the decay is smaller, (1 + n) / (10 + n) after n steps, so that the random start is forgotten.
    The model's tensors are looked up once, so they must change in place, as by an optimizer or `load_state_dict`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        current = model.state_dict()
        self.weights = {name: value.detach().clone() for name, value in current.items()}
        floats = [name for name, value in current.items() if value.is_floating_point()]
        others = [name for name in current if name not in set(floats)]
        self._floats, self._others = (
            ([self.weights[name] for name in names], [current[name] for name in names]) for names in (floats, others)
        )

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step, by one kernel for all of them."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(*self._floats, 1 - decay)
        if self._others[0]:
            torch._foreach_copy_(*self._others)

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"updates": self.updates, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a stored average."""
        self.updates = int(state["updates"])
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)
