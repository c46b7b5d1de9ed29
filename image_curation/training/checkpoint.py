"""A training at some step -> one file from which it goes on as if nothing had happened, whole or absent.

It is read with `weights_only`, so that a checkpoint from elsewhere can run no code.
"""

import io
from typing import Any

import torch

from image_curation import storage
from image_curation.errors import TrainingError

LAYOUT = 1


def save_checkpoint(url: str, made_by: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `state`: tensors, numbers, texts, lists, dicts. `made_by` says in what a training must agree to go on."""
    sink = io.BytesIO()
    torch.save({"made_by": made_by | {"layout": LAYOUT}, "state": state}, sink)
    storage.write_bytes(url, sink.getvalue())


def load_checkpoint(url: str, made_by: dict[str, Any]) -> dict[str, Any] | None:
    """The state stored there, on the CPU; None where there is none.

    Raises:
        TrainingError: it cannot be read, or is of another training.
    """
    if not storage.exists(url):
        return None
    try:
        stored = torch.load(io.BytesIO(storage.read_bytes(url)), map_location="cpu", weights_only=True)
        found, state = stored["made_by"], stored["state"]
    except Exception as error:  # torch raises many kinds for what is no checkpoint
        raise TrainingError(f"{url} is no checkpoint that can be read: {error}. Move it away to begin anew.") from error
    wrong = [
        f"{name} {found.get(name)} instead of {value}" for name, value in made_by.items() if found.get(name) != value
    ]
    if wrong or found.get("layout") != LAYOUT:
        raise TrainingError(
            f"{url} is of another training ({'; '.join(wrong) or 'another layout'}), so this one cannot go on from it. "
            "Give the same data, options and number of processes, or another place for the output."
        )
    return dict(state)


def packed(content: bytes) -> torch.Tensor:
    """Bytes as a tensor, uint8 [n]: `weights_only` takes it."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def unpacked(tensor: torch.Tensor) -> bytes:
    """The bytes again."""
    return tensor.numpy().tobytes()
