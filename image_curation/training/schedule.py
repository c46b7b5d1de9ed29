"""The step -> the learning rate: a linear warm-up, then half a cosine down to zero."""

from math import cos, pi


def learning_rate(step: int, steps: int, warmup_steps: int, highest: float) -> float:
    """The rate for step `step` of `steps`, counted from 0; the warm-up begins above zero, the last step is near it."""
    if step < warmup_steps:
        return highest * (step + 1) / (warmup_steps + 1)
    return highest * 0.5 * (1 + cos(pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
