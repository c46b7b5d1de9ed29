"""Turns a timm model name and its weights into an encoder: pooled features, without the classifier."""

from dataclasses import replace

import torch

from image_curation.encoders.base import Profile
from image_curation.encoders.torch_model import TorchEncoder, checked_device, mismatch, read_state_dict, sha256_of_state
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.encoders.weights import HubFile, Request, WeightsFile, fetch
from image_curation.errors import ConfigError, WeightsError

ensure_torchvision()

import timm  # noqa: E402
from timm.models import PretrainedCfg  # noqa: E402


def settings(name: str, model: str) -> PretrainedCfg:
    """timm's entry for a model, with or without a tag: input size, mean, std, where its weights lie.

    Raises:
        ConfigError: timm has no such model or tag, or its input is not square.
    """
    try:
        config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        like = (
            ", ".join(timm.list_models(f"*{model.split('.')[0][:8]}*", pretrained=True)[:8]) or "see timm.list_models()"
        )
        raise ConfigError(f"encoder {name}: {error} Similar names: {like}.") from error
    if config is None:
        raise ConfigError(f"encoder {name}: timm has no entry for {model!r}.")
    _, height, width = config.input_size
    if height != width:
        raise ConfigError(f"encoder {name}: its input of {height} x {width} px is not square.")
    return config


def load(profile: Profile, device: str, request: Request) -> TorchEncoder:
    """Build the model without its classifier, with the requested weights.

    Raises:
        ConfigError: timm has no such model, or it gives no single vector an image.
        WeightsError: the weights are missing, not the pinned ones, or those of another architecture.
    """
    checked_device(device)  # before seconds of work
    config = settings(profile.name, profile.model)
    if request.seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            model = timm.create_model(profile.model, pretrained=False, num_classes=0)
        profile, checksum = replace(profile, vector_space="random"), sha256_of_state(model)
    else:
        file = fetch(request, _hub_file(profile, config, request), profile.name)
        model, checksum = _with_weights(profile, config, file), file.sha256
    return TorchEncoder(profile, model, device, config.mean, config.std, checksum)


def _with_weights(profile: Profile, config: PretrainedCfg, file: WeightsFile) -> torch.nn.Module:
    """timm converts foreign layouts of tensors and checks every name; then the classifier is taken off.

    A classifier of another number of classes than timm's entry says, as fine-tuning leaves it, is accepted.
    """
    tensors = read_state_dict(file, "", profile.name)
    classifier = config.classifier if isinstance(config.classifier, str) else (config.classifier or ("",))[0]
    head = tensors.get(f"{classifier}.weight")
    classes = config.num_classes if head is None else len(head)
    overlay = {"state_dict": tensors, "num_classes": classes, "custom_load": False}
    try:
        model: torch.nn.Module = timm.create_model(
            profile.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes
        )
    except (RuntimeError, KeyError) as error:
        raise mismatch(file, profile.name, error) from error
    if classes:
        model.reset_classifier(0)  # type: ignore[operator]
    return model


def _hub_file(profile: Profile, config: PretrainedCfg, request: Request) -> HubFile:
    if not config.hf_hub_id and not request.path:
        at = f"Fetch {config.url} and give" if config.url else "Give"
        raise WeightsError(f"encoder {profile.name}: the hub holds no such weights. {at} its path in `weights`.")
    repo, _, revision = (config.hf_hub_id or "").partition("@")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    return HubFile(repo, names, revision or None)
