"""Encoders by name: pixels in, unit vectors out. Cheap to import; models are imported when one is loaded."""

from dataclasses import replace

from image_curation.encoders.base import CpuDtype, Encoder, Profile, dtype_on
from image_curation.encoders.open_names import (
    CLIP_DUPLICATE_SIMILARITY,
    onnx_profile,
    open_clip_profile,
    timm_profile,
)
from image_curation.errors import ConfigError

__all__ = ["PROFILES", "Encoder", "Profile", "load_encoder", "profile"]

_CLIP_VIT_L_14 = Profile(
    name="clip-vit-l-14",
    kind="open_clip",
    model="ViT-L-14-quickgelu",
    pretrained="openai",
    dim=768,
    size=224,
    dtype="bf16",
    vector_space="openai-clip-vit-l-14",
    duplicate_similarity=CLIP_DUPLICATE_SIMILARITY,
    semantic=True,
)

PROFILES = {
    "clip-vit-l-14": _CLIP_VIT_L_14,
    "clip-vit-l-14-fp8": replace(_CLIP_VIT_L_14, name="clip-vit-l-14-fp8", dtype="fp8"),
    "clip-vit-b-32": Profile(
        name="clip-vit-b-32",
        kind="open_clip",
        model="ViT-B-32-quickgelu",
        pretrained="openai",
        dim=512,
        size=224,
        dtype="bf16",
        vector_space="openai-clip-vit-b-32",
        duplicate_similarity=CLIP_DUPLICATE_SIMILARITY,
        semantic=True,
    ),
    "embedded": Profile(
        name="embedded",
        kind="embedded",
        model="gist",
        pretrained=None,
        dim=610,
        size=224,
        dtype="fp32",
        vector_space="",
        # 75,000 pairs of different photos stay below 0.84; re-encoded, resized, brightened and copies cropped by
        # 4 % reach 0.9 in 99 cases of a hundred, copies cropped by 8 % in 98.
        duplicate_similarity=0.90,
        semantic=False,
    ),
}

_OPEN_NAMES = {"open_clip": open_clip_profile, "timm": timm_profile, "onnx": onnx_profile}


def profile(name: str) -> Profile:
    """The profile of a registered name, or of `open_clip:MODEL/PRETRAINED`, `timm:NAME` or `onnx:PATH`.

    Raises:
        ConfigError: there is none; the text lists what is allowed.
        WeightsError: the ONNX file is absent or cannot be read.
    """
    if name in PROFILES:
        return PROFILES[name]
    prefix, colon, rest = name.partition(":")
    if colon and rest and prefix in _OPEN_NAMES:
        return _OPEN_NAMES[prefix](name, rest)
    raise ConfigError(
        f"there is no encoder {name!r}. Allowed: {', '.join(PROFILES)}, "
        "open_clip:MODEL/PRETRAINED, timm:NAME, onnx:PATH."
    )


def load_encoder(
    profile: Profile, device: str = "cpu", weights: str | None = None, cpu_dtype: CpuDtype = "fp32"
) -> Encoder:
    """Load the model of `profile` on `device` ("cpu", "cuda" or "cuda:N").

    Args:
        profile: what to load.
        device: where. `embedded` runs on the CPU whatever this says.
        weights: where the weights come from, see `image_curation.encoders.weights`; None for the profile's own.
        cpu_dtype: what a torch model computes in on a CPU. bf16 is for processors with AMX; without, it is slow.

    Raises:
        ConfigError: no such device, or `weights` cannot be understood.
        WeightsError: the weights are missing, not the pinned ones, or those of another model.
    """
    from image_curation.encoders.weights import parse_request

    request = parse_request(weights)
    profile = replace(profile, dtype=dtype_on(profile, device, cpu_dtype))
    if profile.kind == "open_clip":
        from image_curation.encoders import open_clip_encoder

        return open_clip_encoder.load(profile, device, request)
    if profile.kind == "timm":
        from image_curation.encoders import timm_encoder

        return timm_encoder.load(profile, device, request)
    if request.seed is not None:
        raise ConfigError(f"encoder {profile.name}: random weights exist for open_clip and timm models only.")
    if profile.kind == "onnx":
        from image_curation.encoders.onnx_encoder import OnnxEncoder

        return OnnxEncoder(profile, device, request)
    from image_curation.encoders.embedded import EmbeddedEncoder

    if weights:
        raise ConfigError(f"encoder {profile.name} has no weights; leave the setting `weights` empty.")
    return EmbeddedEncoder(profile)
