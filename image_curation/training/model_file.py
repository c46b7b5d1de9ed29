"""A trained model -> safetensors that name the release it was trained on, and a model card beside it; and back.

The file's metadata and the card say the same: the architecture, the classes, how images are prepared, and the SHA-256
of the release's manifest. The manifest names the release's shards with their hashes, and the Parquet beside each shard
names the raw shard of every image: so one walks from a model back to the tars that it came from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from image_curation import storage
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.errors import ConfigError, TrainingError

MODEL, CARD = "model.safetensors", "model.json"
_NAME = "image_curation"


def create_model(name: str, classes: int) -> nn.Module:
    """A model of timm with random weights.

    Raises:
        ConfigError: timm has no such model.
    """
    ensure_torchvision()
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ConfigError(f"timm has no model {name!r}. Near it: {', '.join(near) or 'none; see timm.list_models()'}.")
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return model


def begin_with(model: nn.Module, path: str) -> None:
    """Load weights of the same architecture; a last layer for other classes is left random.

    Raises:
        TrainingError: it is no file of weights, or not of this architecture.
    """
    if not Path(path).is_file():
        raise TrainingError(f"there is no file of weights at {path}. Correct --weights.")
    if path.endswith(".safetensors"):
        weights = safetensors.torch.load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = weights.get("state_dict", weights)
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    missing = [name for name in own if name not in fitting]
    if len(missing) > 2:
        raise TrainingError(
            f"{path} lacks {len(missing)} of the model's {len(own)} weights, such as {missing[0]}: it is of another "
            "architecture. Correct --weights or --model."
        )
    model.load_state_dict(fitting, strict=False)


def save_model(folder: str, weights: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write the weights with the card in their metadata, then the card as JSON of its own."""
    metadata = {_NAME: json.dumps(card, sort_keys=True), "format": "pt"}
    if "manifest_sha256" in card["source"]:
        metadata["release_manifest_sha256"] = card["source"]["manifest_sha256"]
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    storage.write_bytes(storage.join(folder, MODEL), _in_order(safetensors.torch.save(tensors, metadata)))
    storage.write_bytes(storage.join(folder, CARD), json.dumps(card, indent=2, sort_keys=True).encode() + b"\n")


def _in_order(content: bytes) -> bytes:
    """The same file with the names in its header sorted: safetensors writes metadata in an order of the moment."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def load_model(path: str) -> tuple[nn.Module, dict[str, Any]]:
    """A trained model and its card, from a `model.safetensors` on disk.

    Raises:
        TrainingError: it was not written by `save_model`.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _NAME not in metadata:
        raise TrainingError(f"{path} carries no card of image-curation: it was not trained by it.")
    card = json.loads(metadata[_NAME])
    model = create_model(card["config"]["model"], len(card["classes"]))
    model.load_state_dict(weights)
    return model.eval(), card
