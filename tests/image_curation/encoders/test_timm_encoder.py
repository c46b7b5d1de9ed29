"""timm models become encoders with timm's own features, and their weights are checked."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from image_curation.encoders import load_encoder, profile
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.errors import WeightsError

ensure_torchvision()

import timm  # noqa: E402

PIXELS = np.random.default_rng(7).integers(0, 256, (3, 160, 160, 3), np.uint8)


def _timm_model(classes, seed=9):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model("test_vit", num_classes=classes).eval()


def _features(model):
    """Unit vectors of timm's own pooled features, on timm's own normalisation."""
    config = timm.data.resolve_data_config(model=model)
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255
    images = (images - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    return torch.nn.functional.normalize(features, dim=-1).numpy()


@pytest.mark.parametrize(("container", "classes"), [("safetensors", 1000), ("pt", 1000), ("pt", 7)])
def test_local_weights_give_timms_own_features(tmp_path, container, classes):
    """Also from a fine-tuned checkpoint, whose classifier has another number of classes."""
    model = _timm_model(classes)
    path = tmp_path / f"weights.{container}"
    if container == "pt":
        torch.save({"state_dict": model.state_dict()}, path)
    else:
        save_file(model.state_dict(), path)
    encoder = load_encoder(profile("timm:test_vit"), weights=str(path))
    vectors = encoder.encode(PIXELS)
    assert vectors.shape == (3, encoder.dim) == (3, 64)
    assert encoder.profile.dim == 64
    assert np.abs(vectors.astype(np.float64) - _features(model)).max() < 3e-4
    assert "mean 0.5/0.5/0.5, std 0.5/0.5/0.5" in encoder.preprocessing
    assert "160 px" in encoder.preprocessing


def test_weights_that_miss_a_layer_are_refused(tmp_path):
    tensors = _timm_model(1000).state_dict()
    del tensors["blocks.0.attn.qkv.weight"]
    save_file(tensors, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"another architecture.*blocks\.0\.attn\.qkv\.weight"):
        load_encoder(profile("timm:test_vit"), weights=str(tmp_path / "part.safetensors"))


def test_weights_of_another_model_are_refused(tmp_path):
    save_file(_timm_model(1000).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match="another architecture"):
        load_encoder(profile("timm:test_resnet"), weights=str(tmp_path / "vit.safetensors"))


def test_random_weights_are_the_same_for_the_same_seed():
    first, second, third = (load_encoder(profile("timm:test_resnet"), weights=f"random:{seed}") for seed in (1, 1, 2))
    assert first.profile.vector_space == "random"
    assert first.weights_sha256 == second.weights_sha256 != third.weights_sha256
    assert (first.encode(PIXELS) == second.encode(PIXELS)).all()
