"""Turns an open name (`open_clip:MODEL/PRETRAINED`, `timm:NAME`, `onnx:PATH`) into a profile."""

import difflib
import importlib.util
import json
from pathlib import Path
from typing import Any

from image_curation.encoders.base import Profile
from image_curation.errors import ConfigError

# The cosine from which SemDeDup (arXiv 2303.09540) and its users take CLIP vectors as duplicates.
CLIP_DUPLICATE_SIMILARITY = 0.95
# For networks that nobody measured. With a MobileNetV2's features, 75,000 pairs of different photos stay below 0.77;
# re-encoded, brightened or slightly cropped copies reach 0.9 in 97 cases of a hundred, thumbnails in half.
DUPLICATE_SIMILARITY = 0.90
# Models whose vectors score heads were trained on, by (open_clip's model without -quickgelu, its tag).
VECTOR_SPACES = {
    ("ViT-L-14", "openai"): "openai-clip-vit-l-14",
    ("ViT-B-32", "openai"): "openai-clip-vit-b-32",
}


def open_clip_profile(name: str, rest: str) -> Profile:
    """The profile of `MODEL/PRETRAINED`, or of `MODEL` alone for weights from a local path.

    Reads open_clip's configuration files without importing it, which would take seconds.

    Raises:
        ConfigError: open_clip has no such model.
    """
    model, _, tag = rest.rpartition("/") if "/" in rest else (rest, "", "")
    model = model.replace("/", "-")  # open_clip takes ViT-B/32 for ViT-B-32
    config = _open_clip_config(name, model)
    space = VECTOR_SPACES.get((model.removesuffix("-quickgelu"), tag), "")
    dim, size = config["embed_dim"], config["vision_cfg"].get("image_size", 224)
    return Profile(
        name, "open_clip", model, tag or None, dim, size, "bf16", space, CLIP_DUPLICATE_SIMILARITY, semantic=True
    )  # fmt: skip


def timm_profile(name: str, rest: str) -> Profile:
    """The profile of a timm model, with or without its tag. Imports timm.

    Raises:
        ConfigError: timm has no such model.
    """
    from image_curation.encoders.timm_encoder import settings

    size = settings(name, rest).input_size[-1]
    return Profile(name, "timm", rest, None, None, size, "bf16", "", DUPLICATE_SIMILARITY, semantic=True)


def onnx_profile(name: str, rest: str) -> Profile:
    """The profile of an ONNX file. Reads its graph and the YAML file beside it.

    Raises:
        ConfigError: layout or size are in neither.
        WeightsError: there is no such file, or it is no ONNX model.
    """
    from image_curation.encoders.onnx_encoder import input_size

    return Profile(
        name, "onnx", rest, None, None, input_size(rest, name), "fp32", "", DUPLICATE_SIMILARITY, semantic=True
    )


def _open_clip_config(name: str, model: str) -> dict[str, Any]:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ConfigError(f"encoder {name}: the package open_clip_torch is not installed.")
    folder = Path(spec.origin).parent / "model_configs"
    names = sorted(path.stem for path in folder.glob("*.json"))
    if model not in names:
        like = ", ".join(difflib.get_close_matches(model, names, n=6, cutoff=0.4)) or ", ".join(names)
        raise ConfigError(f"encoder {name}: open_clip has no model {model!r}. Similar names: {like}.")
    config: dict[str, Any] = json.loads((folder / f"{model}.json").read_text())
    return config
