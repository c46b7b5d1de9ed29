"""The fused pass gives what open_clip's own gives; each kernel gives what plain torch gives.

Without a GPU the pass is built of plain torch in place of its kernels: what is tested then is the bookkeeping of
weights, biases, scales and the class token.
"""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from image_curation.config import resolve_device
from image_curation.encoders import load_encoder, profile
from image_curation.encoders.forward import Normalised
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.errors import ConfigError
from tests.image_curation.encoders import vit_reference

ensure_torchvision()

from open_clip.transformer import QuickGELU, VisionTransformer  # noqa: E402

GPU = resolve_device("auto") == "cuda"
DEVICE = torch.device("cuda" if GPU else "cpu")
needs_gpu = pytest.mark.skipif(not GPU, reason="no GPU on this machine")
MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)


@pytest.fixture
def fused_vit(monkeypatch):
    """The module, with its kernels where they can run."""
    if not GPU:
        monkeypatch.setitem(sys.modules, "image_curation.encoders.vit_kernels", vit_reference)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.delitem(sys.modules, "image_curation.encoders.fused_vit", raising=False)
    yield importlib.import_module("image_curation.encoders.fused_vit")
    sys.modules.pop("image_curation.encoders.fused_vit", None)


def _tower(activation=QuickGELU, patch=14, size=56, **changes):
    """A small tower in which no bias is zero and no gain one, so that none can be forgotten unnoticed."""
    torch.manual_seed(0)
    tower = VisionTransformer(size, patch, 256, 3, 4, 4.0, output_dim=32, act_layer=activation, **changes)
    for name, values in tower.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(values, std=0.3)
        elif "ln_" in name:
            torch.nn.init.normal_(values, mean=1, std=0.3)
    return tower.eval().requires_grad_(False)


def _pixels(n, size=56):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)).to(DEVICE)


@pytest.mark.parametrize(("activation", "patch", "size"), [(QuickGELU, 14, 56), (torch.nn.GELU, 16, 112)])
def test_gives_what_open_clip_gives(fused_vit, activation, patch, size):
    tower, pixels = _tower(activation, patch, size), _pixels(4, size)
    assert fused_vit.is_supported(tower, DEVICE)
    with torch.inference_mode():
        expected = Normalised(tower, MEAN, STD, torch.float32, DEVICE)(pixels)
        found = fused_vit.FusedVit(tower, MEAN, STD, 4, "bf16", DEVICE)(pixels)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.9998
    assert ((found - expected).norm() / expected.norm()) < 0.02
    assert torch.nn.functional.cosine_similarity(found[:1], expected[1:2]) < 0.999  # the images do differ


@pytest.mark.parametrize("changes", [{"pool_type": "avg"}, {"no_ln_pre": True}, {"ls_init_value": 0.1}])
def test_other_towers_are_not_taken_for_plain_ones(fused_vit, changes):
    assert fused_vit.is_supported(_tower(), DEVICE)
    assert not fused_vit.is_supported(_tower(**changes), DEVICE)


def test_fp8_where_it_cannot_be_had_is_refused_with_the_way_out(monkeypatch):
    from image_curation.encoders import torch_model

    monkeypatch.setattr(torch_model, "is_fusable", lambda model, device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    with pytest.raises(ConfigError, match=r"clip-vit-l-14-fp8: fp8 needs .* here is Some GPU. Use the profile without"):
        torch_model._gpu_forward(_tower(), MEAN, STD, 4, profile("clip-vit-l-14-fp8"), torch.device("cuda"))


def test_fp8_is_fp32_on_a_cpu_as_all_else():
    encoder = load_encoder(profile("clip-vit-l-14-fp8"), "cpu", "random:0") if not GPU else None
    assert encoder is None or encoder.profile.dtype == "fp32"


@needs_gpu
@pytest.mark.parametrize("tokens", [257, 50, 197])
def test_kernels_give_what_torch_gives(tokens):
    from image_curation.encoders import vit_kernels

    torch.manual_seed(1)
    width, images = 768, 3
    rows = images * tokens

    def random(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, device="cuda").to(dtype)

    def compare(name, out, *arguments, tolerance=6e-3, **named):
        outs = []
        for module in (vit_kernels, vit_reference):
            copies = [one.clone() if isinstance(one, torch.Tensor) else one for one in arguments]
            named_copies = {key: value.clone() for key, value in named.items()}
            target = torch.zeros_like(out)
            given = {**named_copies, "out": target}
            getattr(module, name)(*copies, **given)
            outs.append([t.float() for t in (*copies, *given.values()) if isinstance(t, torch.Tensor)])
        for found, expected in zip(*outs, strict=True):
            assert (found - expected).norm() <= tolerance * expected.norm() + 1e-6, name

    norm = torch.nn.LayerNorm(width).cuda().requires_grad_(False)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    bias = random(width, dtype=torch.float32)
    matrix = torch.empty(rows, width, device="cuda", dtype=torch.bfloat16)
    fp8 = matrix.to(torch.float8_e4m3fn)
    scales = torch.zeros(rows, device="cuda")
    patches = random(images * (tokens - 1), width, dtype=torch.float16)
    positions = random(tokens, width, dtype=torch.float32)
    compare("embed", matrix, patches, bias, positions, norm)
    compare("layer_norm", matrix, random(rows, width), bias, norm)
    compare("layer_norm", matrix, random(rows, width), bias, norm, add=random(rows, width))
    compare("layer_norm", fp8, random(rows, width), bias, norm, scales=scales, tolerance=0.03)
    for activation in ("gelu", "quick_gelu"):
        hidden = random(rows, 4 * width)
        compare(
            "quantized_activation", hidden.to(torch.float8_e4m3fn), hidden, activation, scales=scales, tolerance=0.03
        )
        weight, offset = random(4 * width, width) / 28, random(4 * width)
        compare("linear_activation", hidden, random(rows, width), weight, offset, activation)
    qkv = random(rows, 3 * width)
    qkv[:, :width] *= vit_kernels.QUERY_SCALE
    compare("attention", matrix, qkv, tokens)
    compare("class_attention", random(images, width), qkv[:images, :width], qkv[:, width:], tokens)


@needs_gpu
def test_pixels_are_exact_in_patches():
    from image_curation.encoders import vit_kernels

    pixels, outs = _pixels(3, 224), []
    for module in (vit_kernels, vit_reference):
        outs.append(torch.ones(3 * 256, 640, dtype=torch.float16, device="cuda"))
        module.to_patches(pixels, outs[-1], 14)
    assert torch.equal(*outs)


@needs_gpu
@pytest.mark.parametrize(
    ("name", "mean", "least"),
    [
        ("clip-vit-l-14", 0.9999, 0.9995),
        ("clip-vit-b-32", 0.9999, 0.9995),
        ("open_clip:ViT-B-16/laion2b_s34b_b88k", 0.9999, 0.9995),
        ("clip-vit-l-14-fp8", 0.998, 0.995),
    ],
)
def test_vectors_on_the_gpu_are_those_of_fp32(name, mean, least, photo_pixels):
    chosen = profile(name)
    pixels = torch.as_tensor(photo_pixels).cuda()
    encoder = load_encoder(chosen, "cuda", "random:0")
    assert type(encoder._forward._forward).__name__ == "FusedVit"
    from image_curation.encoders.open_clip_encoder import OPENAI_MEAN, OPENAI_STD, _random_tower

    tower = _random_tower(chosen, 0).eval()
    with torch.inference_mode():
        reference = Normalised(tower, OPENAI_MEAN, OPENAI_STD, torch.float32, DEVICE)
        expected = torch.nn.functional.normalize(torch.cat([reference(part) for part in pixels.split(32)]), dim=1)
    cosines = (torch.from_numpy(encoder.encode(pixels).astype(np.float32)) * expected.cpu()).sum(1)
    between = (expected @ expected.T).mean()
    print(f"{name}: cosine to fp32 mean {cosines.mean():.6f}, min {cosines.min():.6f}; between photos {between:.3f}")
    assert cosines.mean() > mean
    assert cosines.min() > least


@needs_gpu
@pytest.mark.parametrize("name", ["clip-vit-l-14", "clip-vit-l-14-fp8", "timm:vit_small_patch16_224.augreg_in1k"])
def test_vectors_depend_on_neither_neighbours_nor_other_threads(name, photo_pixels):
    encoder = load_encoder(profile(name), "cuda", "random:0")
    pixels = np.concatenate([photo_pixels] * (1 + 2 * encoder.batch // len(photo_pixels)))[: 2 * encoder.batch]
    together = encoder.encode(pixels)
    order = np.random.default_rng(0).permutation(len(pixels))
    assert (encoder.encode(torch.as_tensor(pixels[order]).cuda()) == together[order]).all()
    parts = [pixels[start : start + 37] for start in range(0, len(pixels), 37)]
    with ThreadPoolExecutor(4) as pool:
        assert (np.concatenate(list(pool.map(encoder.encode, parts))) == together).all()
