"""Averaged weights, by hand: the decay of the first steps, integers of the last, changes in place, a stored state."""

import pytest
import torch
from torch import nn

from image_curation.training.averaged import AveragedWeights


@pytest.fixture
def model() -> nn.Module:
    """One weight, which is 1, and the statistics of a norm."""
    made = nn.BatchNorm1d(1)
    nn.init.ones_(made.weight)
    return made


def learn(model: nn.Module, weight: float) -> None:
    with torch.no_grad():
        model.weight.fill_(weight)
        model.num_batches_tracked += 1


def test_first_steps_forget_the_start_and_integers_are_the_last(model):
    averaged = AveragedWeights(model, decay=0.9)
    learn(model, 12.0)
    averaged.update()  # decay 2/11
    assert averaged.weights["weight"].item() == pytest.approx(1 * 2 / 11 + 12 * 9 / 11)
    learn(model, 0.0)
    averaged.update()  # decay 3/12
    assert averaged.weights["weight"].item() == pytest.approx(10 * 3 / 12)
    assert averaged.weights["num_batches_tracked"].item() == 2
    assert averaged.weights["running_var"].item() == 1


def test_later_the_decay_is_the_one_asked_for(model):
    averaged = AveragedWeights(model, decay=0.5)
    averaged.updates = 100
    model.load_state_dict({name: value + 2 for name, value in model.state_dict().items()})
    averaged.update()
    assert averaged.weights["weight"].item() == 2


def test_restored_average_goes_on_as_the_stored_one(model):
    averaged, again = AveragedWeights(model, decay=0.9), AveragedWeights(model, decay=0.9)
    learn(model, 5.0)
    averaged.update()
    again.restore(averaged.state())
    learn(model, 7.0)
    averaged.update()
    again.update()
    assert again.weights["weight"].item() == averaged.weights["weight"].item() != 7


def test_model_without_integers_is_averaged_too():
    averaged = AveragedWeights(nn.Linear(1, 1), decay=0.9)
    averaged.update()
    assert averaged.updates == 1
