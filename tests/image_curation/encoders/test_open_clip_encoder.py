"""Our visual tower gives what open_clip's own full model gives, with the same weights on the same pixels."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from image_curation.encoders import load_encoder, profile
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.errors import ConfigError, WeightsError

ensure_torchvision()

import open_clip  # noqa: E402


@pytest.fixture(scope="module")
def small():
    """A tower of 22 M parameters, for what does not depend on the model."""
    return load_encoder(profile("open_clip:ViT-S-32"), weights="random:3")


def _full_model(name, tower):
    """open_clip's own model with the tensors of our tower; its text tower stays without memory."""
    with torch.device("meta"):
        model = open_clip.create_model(name, device="meta", load_weights=False)
    model.visual.load_state_dict(tower.state_dict(), strict=True, assign=True)
    return model.eval()


def _reference(model, pixels):
    """[n, d] unit vectors by open_clip's own transform and its own normalisation."""
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    transform = open_clip.image_transform(224, is_train=False, mean=mean, std=std, interpolation="bicubic")
    with torch.inference_mode():
        images = torch.stack([transform(Image.fromarray(image)) for image in pixels])
        return model.encode_image(images, normalize=True).numpy()


@pytest.mark.parametrize(
    ("name", "count", "parameters"),
    [("clip-vit-b-32", 8, 87_849_216), ("clip-vit-l-14", 2, 303_966_208)],
)
def test_equal_to_open_clips_full_model_with_the_same_random_weights(name, count, parameters, photo_pixels):
    encoder = load_encoder(profile(name), weights="random:11")
    tower = encoder._forward.model
    assert sum(tensor.numel() for tensor in tower.parameters()) == parameters  # the visual tower's alone
    expected = _reference(_full_model(encoder.profile.model, tower), photo_pixels[:count])
    vectors = encoder.encode(photo_pixels[:count])
    assert vectors.shape == (count, profile(name).dim) == expected.shape
    assert vectors.dtype == np.float16
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-3
    steps = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)  # fp16's at each entry
    assert (np.abs(vectors.astype(np.float64) - expected) <= 0.51 * steps + 1e-5).all()
    with torch.inference_mode():  # and before rounding
        exact = (
            torch.nn.functional.normalize(encoder._forward(torch.as_tensor(photo_pixels[:count])), dim=-1)
            .double()
            .numpy()
        )
    assert (exact * expected).sum(axis=1).min() > 1 - 1e-6
    assert np.abs(exact - expected).max() < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the photos do differ


def test_vectors_do_not_depend_on_the_batch(small, photo_pixels):
    """35 images are a full batch and a part of one."""
    pixels = photo_pixels[:35]
    together = small.encode(pixels).astype(np.float64)
    alone = np.concatenate([small.encode(pixels[row : row + 1]) for row in (0, 20, 31, 32, 34)]).astype(np.float64)
    assert together.shape == (35, 384)
    assert np.abs(together[[0, 20, 31, 32, 34]] - alone).max() < 1e-3


def test_no_image_gives_no_vector(small):
    vectors = small.encode(np.empty((0, 224, 224, 3), np.uint8))
    assert (vectors.shape, vectors.dtype) == ((0, 384), np.float16)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 3, 224, 224), np.uint8),
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((1, 256, 256, 3), np.uint8),
    ],
)
def test_wrong_pixels_are_refused_with_both_shapes(small, pixels):
    with pytest.raises(ValueError, match=r"should be uint8 \[n, 224, 224, 3\], not "):
        small.encode(pixels)


def test_random_weights_are_told_by_their_space_and_checksum(small):
    assert small.profile.vector_space == "random"
    assert load_encoder(profile("open_clip:ViT-S-32"), weights="random:3").weights_sha256 == small.weights_sha256
    assert load_encoder(profile("open_clip:ViT-S-32"), weights="random:4").weights_sha256 != small.weights_sha256


def test_a_cpu_computes_in_fp32_and_the_profile_says_so(small):
    assert profile("open_clip:ViT-S-32").dtype == "bf16"
    assert small.profile.dtype == "fp32"
    assert small.preprocessing == (
        "short side to 224 px bicubic, centre crop 224x224, RGB; /255, "
        "mean 0.48145466/0.4578275/0.40821073, std 0.26862954/0.26130258/0.27577711"
    )


def test_a_cpu_computes_in_bf16_where_it_is_told_to(small, photo_pixels):
    encoder = load_encoder(profile("open_clip:ViT-S-32"), weights="random:3", cpu_dtype="bf16")
    assert (encoder.profile.dtype, encoder.weights_sha256) == ("bf16", small.weights_sha256)
    exact, vectors = small.encode(photo_pixels[:20]), encoder.encode(photo_pixels[:20])
    assert not np.array_equal(vectors, exact)
    assert (vectors.astype(np.float64) * exact).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:0", ""])
def test_unknown_device_lists_what_is_allowed(device):
    with pytest.raises(ConfigError, match="not one of: cpu, cuda, cuda:N"):
        load_encoder(profile("clip-vit-b-32"), device=device, weights="random:3")


def test_a_gpu_that_is_not_there_is_an_error_before_any_work():
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ConfigError, match=r"sees (no|\d+) CUDA GPU"):
        load_encoder(profile("clip-vit-b-32"), device=absent, weights="random:3")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_in_bf16_agrees_with_the_cpu_whatever_holds_the_pixels(small, photo_pixels):
    encoder = load_encoder(profile("open_clip:ViT-S-32"), device="cuda", weights="random:3")
    assert (encoder.profile.dtype, encoder.weights_sha256) == ("bf16", small.weights_sha256)
    vectors = encoder.encode(photo_pixels[:20])
    assert np.array_equal(encoder.encode(torch.from_numpy(photo_pixels[:20]).cuda()), vectors)
    assert np.array_equal(encoder.encode(photo_pixels[7:8])[0], vectors[7])  # batches are filled up to one shape
    assert (vectors.astype(np.float64) * small.encode(photo_pixels[:20])).sum(axis=1).min() > 0.999


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A whole ViT-S-32 of open_clip, text tower included, as open_clip's users save it; and its own vectors' model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = open_clip.create_model("ViT-S-32").eval()
    path = tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path, model


def test_visual_tower_is_taken_out_of_a_whole_models_file(small_file, photo_pixels):
    path, model = small_file
    encoder = load_encoder(profile("open_clip:ViT-S-32"), weights=str(path))
    vectors = encoder.encode(photo_pixels[:3]).astype(np.float64)
    assert np.abs(vectors - _reference(model, photo_pixels[:3])).max() < 1e-3
    assert encoder.profile.vector_space == ""


def test_quickgelu_follows_the_weights_whatever_the_models_name(photo_pixels):
    """OpenAI's weights were trained with QuickGELU; open_clip's plain model name would run them without."""
    named = load_encoder(profile("open_clip:ViT-B-32-quickgelu/openai"), weights="random:3")
    plain = load_encoder(profile("open_clip:ViT-B-32/openai"), weights="random:3")
    without = load_encoder(profile("open_clip:ViT-B-32/laion2b_s34b_b79k"), weights="random:3")
    assert named.weights_sha256 == plain.weights_sha256 == without.weights_sha256
    first, second, third = (encoder.encode(photo_pixels[:2]).astype(np.float64) for encoder in (named, plain, without))
    assert np.abs(first - second).max() < 1e-6
    assert np.abs(first - third).max() > 1e-3


def test_weights_of_another_architecture_are_refused(small_file):
    path, _ = small_file
    with pytest.raises(WeightsError, match="another architecture"):
        load_encoder(profile("open_clip:ViT-B-32"), weights=str(path))


def test_unknown_tag_lists_those_of_the_model():
    with pytest.raises(ConfigError, match="laion2b_s34b_b79k"):
        load_encoder(profile("open_clip:ViT-B-32/nope"), weights="random:1")


def test_model_without_tag_asks_for_a_path():
    with pytest.raises(WeightsError, match="`weights`"):
        load_encoder(profile("open_clip:ViT-S-32"))


def test_unknown_file_for_a_profile_with_heads_is_reported(small_file, caplog):
    path, _ = small_file
    claimed = replace(profile("open_clip:ViT-S-32"), vector_space="openai-clip-vit-b-32")
    with caplog.at_level(logging.WARNING):
        load_encoder(claimed, weights=str(path))
    assert "on your word" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        pinned = load_encoder(profile("open_clip:ViT-S-32"), weights=str(path)).weights_sha256
        load_encoder(claimed, weights=f"{path}@sha256:{pinned}")
    assert "on your word" not in caplog.text


def test_images_with_a_broken_model_raise_instead_of_giving_nan(photo_pixels):
    encoder = load_encoder(profile("open_clip:ViT-S-32"), weights="random:1")
    encoder._forward.model.ln_post.bias.fill_(float("nan"))
    with pytest.raises(WeightsError, match="none of the 2 vectors is finite"):
        encoder.encode(photo_pixels[:2])


def test_real_b32_weights_reproduce_the_reference_embeddings(shared_data):
    """Real weights are not part of the test data: give their path to run this."""
    path = os.environ.get("IMAGE_CURATION_CLIP_B32_WEIGHTS")
    if not path:
        pytest.skip(
            "set IMAGE_CURATION_CLIP_B32_WEIGHTS to OpenAI's ViT-B/32 weights (open_clip's safetensors, or .pt)"
        )
    encoder = load_encoder(profile("clip-vit-b-32"), weights=str(Path(path)))
    reference = np.load(shared_data / "clip-b32-reference" / "clip_vitb32_emb_and_tensors.npz")
    names = [key.removeprefix("emb_") for key in reference.files if key.startswith("emb_")]
    assert len(names) == 7
    tensors = np.stack([reference[f"tensor_{name}"] for name in names]).transpose(0, 2, 3, 1)
    pixels = tensors * open_clip.OPENAI_DATASET_STD + np.array(open_clip.OPENAI_DATASET_MEAN)
    vectors = encoder.encode(np.rint(pixels * 255).astype(np.uint8)).astype(np.float64)
    expected = np.stack([reference[f"emb_{name}"] for name in names]).astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (vectors * expected).sum(axis=1).min() > 0.999
