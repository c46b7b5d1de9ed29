"""Turns an open_clip model name and its weights into an encoder: the visual tower only."""

import logging
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import torch

from image_curation.encoders.base import Profile
from image_curation.encoders.torch_model import (
    TorchEncoder,
    checked_device,
    load_strictly,
    read_state_dict,
    sha256_of_state,
)
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.encoders.weights import PINNED, HubFile, Request, WeightsFile, fetch
from image_curation.errors import ConfigError, WeightsError

ensure_torchvision()

from open_clip import get_model_config  # noqa: E402
from open_clip.model import _build_vision_tower  # noqa: E402
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model  # noqa: E402

logger = logging.getLogger(__name__)

# OpenAI's mean and standard deviation of RGB in 0..1, which open_clip uses where a tag names no others.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def load(profile: Profile, device: str, request: Request) -> TorchEncoder:
    """Build the visual tower of `profile.model` and fill it with the requested weights.

    Raises:
        ConfigError: open_clip does not know the tag.
        WeightsError: the weights are missing, not the pinned ones, or those of another architecture.
    """
    checked_device(device)  # before seconds of work
    tag = _tag_settings(profile)
    if request.seed is not None:
        tower = _random_tower(profile, request.seed)
        profile = replace(profile, vector_space="random")
        checksum = sha256_of_state(tower)
    else:
        file = fetch(request, _hub_file(profile, tag, request), profile.name, _known_checksums(tag))
        if profile.vector_space and not file.pinned:
            logger.warning(
                "encoder %s: the checksum %s of %s is not known to be that of the original weights. Score heads take "
                "its vectors for those of %s on your word.", profile.name, file.sha256, file.path, profile.vector_space
            )  # fmt: skip
        tower = _tower_with(read_state_dict(file, "visual.", profile.name), profile, tag, file)
        checksum = file.sha256
    if tag.get("resize_mode", "shortest") != "shortest":
        logger.warning(
            "encoder %s was trained on images squashed to a square; here they are centre-cropped, which moves its "
            "vectors a little.", profile.name
        )  # fmt: skip
    mean, std = tuple(tag.get("mean", OPENAI_MEAN)), tuple(tag.get("std", OPENAI_STD))
    return TorchEncoder(profile, tower, device, mean, std, checksum)


def _tower_with(
    tensors: dict[str, torch.Tensor], profile: Profile, tag: dict[str, Any], file: WeightsFile
) -> torch.nn.Module:
    """The visual tower made of these tensors. Filling it with random numbers first would take three seconds."""
    with torch.device("meta"):
        tower = _tower(profile, tag)
    load_strictly(tower, tensors, file, profile.name)
    if any(tensor.is_meta for tensor in (*tower.parameters(), *tower.buffers())):  # it computes some by itself
        tower = _tower(profile, tag)
        load_strictly(tower, tensors, file, profile.name)
    return tower


def _random_tower(profile: Profile, seed: int) -> torch.nn.Module:
    """The visual tower with open_clip's own random initialisation. The global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _tower(profile, _tag_settings(profile))


def _tower(profile: Profile, tag: dict[str, Any]) -> torch.nn.Module:
    """The tower alone: open_clip's public functions would also build the text tower, 124 M parameters beside L/14.

    QuickGELU is used where the weights were trained with it, whatever the model's name (open_clip only warns).
    """
    config = get_model_config(profile.model)
    quick_gelu = bool(config.get("quick_gelu") or tag.get("quick_gelu"))
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    tower: torch.nn.Module = _build_vision_tower(config["embed_dim"], vision, quick_gelu)
    return tower


def _tag_settings(profile: Profile) -> dict[str, Any]:
    """open_clip's entry for these weights: where they lie, mean, std, resize mode, QuickGELU."""
    if profile.pretrained is None:
        return {}
    tag: dict[str, Any] = get_pretrained_cfg(profile.model, profile.pretrained)
    if not tag:
        known = ", ".join(list_pretrained_tags_by_model(profile.model)) or "none"
        raise ConfigError(
            f"encoder {profile.name}: open_clip has no weights {profile.pretrained!r} for {profile.model}. "
            f"Allowed: {known}."
        )
    return tag


def _hub_file(profile: Profile, tag: dict[str, Any], request: Request) -> HubFile:
    pinned = PINNED.get((profile.model.removesuffix("-quickgelu"), profile.pretrained or ""))
    if pinned:
        return pinned
    repo, _, filename = tag.get("hf_hub", "").rpartition("/")
    if not repo and not request.path:
        at = f"Fetch {tag['url']} and give" if tag.get("url") else "Give"
        raise WeightsError(f"encoder {profile.name}: the hub holds no such weights. {at} its path in `weights`.")
    filename = filename or "open_clip_pytorch_model.bin"
    return HubFile(repo, _with_safe_name_first(filename))


def _with_safe_name_first(filename: str) -> tuple[str, ...]:
    """The safetensors twin of a file, as open_clip names it, before the file itself."""
    if filename == "open_clip_pytorch_model.bin":
        return ("open_clip_model.safetensors", filename)
    return tuple(dict.fromkeys([str(PurePosixPath(filename).with_suffix(".safetensors")), filename]))


def _known_checksums(tag: dict[str, Any]) -> frozenset[str]:
    """OpenAI's own files lie in a folder that is named by their SHA-256."""
    parts = PurePosixPath(tag.get("url", "")).parts
    return frozenset(part for part in parts if len(part) == 64)
