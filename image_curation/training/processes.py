"""The environment of torchrun -> which of how many processes this is, its device, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from image_curation.config import resolve_device
from image_curation.errors import CurationError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among `count`, counted from 0; `local` counts those of this machine."""

    rank: int
    count: int
    local: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one logs and saves."""
        return self.rank == 0

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What `make` gives in the first process, which alone calls it; an error of ours is raised in all of them."""
        if self.count == 1:
            return make()
        made: list[Any] = [_value_or_error(make) if self.first else None]
        dist.broadcast_object_list(made)
        if isinstance(made[0], CurationError):
            raise made[0]
        return made[0]  # type: ignore[no-any-return]

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started; without it this one is alone. NCCL on GPUs, Gloo on CPUs."""
    rank, count, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    kind = resolve_device(device)
    place = torch.device("cuda", local) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(place)
    if count == 1:
        yield Processes(0, 1, 0, place)
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", device_id=place if kind == "cuda" else None)
    try:
        yield Processes(rank, count, local, place)
    finally:
        dist.destroy_process_group()


def _value_or_error(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except CurationError as error:
        return error


_VARIABLES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
