"""Names turn into profiles, wrong names into an error that lists what is allowed, and nothing heavy is imported."""

import subprocess
import sys

import pytest

from image_curation.encoders import PROFILES, load_encoder, profile
from image_curation.errors import ConfigError


def test_unknown_name_lists_what_is_allowed():
    with pytest.raises(ConfigError) as caught:
        profile("nope")
    for allowed in [*PROFILES, "open_clip:MODEL/PRETRAINED", "timm:NAME", "onnx:PATH"]:
        assert allowed in str(caught.value)


@pytest.mark.parametrize("name", ["open_clip:", "timm", "onnx:", "", ":"])
def test_prefix_without_a_name_is_no_name(name):
    with pytest.raises(ConfigError, match="there is no encoder"):
        profile(name)


def test_registered_names_are_those_of_their_profiles():
    assert {name: found.name for name, found in PROFILES.items()} == {name: name for name in PROFILES}


@pytest.mark.parametrize(
    ("name", "model", "dim", "size", "space"),
    [
        ("clip-vit-l-14", "ViT-L-14-quickgelu", 768, 224, "openai-clip-vit-l-14"),
        ("clip-vit-b-32", "ViT-B-32-quickgelu", 512, 224, "openai-clip-vit-b-32"),
        ("open_clip:ViT-L-14-quickgelu/openai", "ViT-L-14-quickgelu", 768, 224, "openai-clip-vit-l-14"),
        ("open_clip:ViT-B/32/openai", "ViT-B-32", 512, 224, "openai-clip-vit-b-32"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "ViT-B-32", 512, 224, ""),
        ("open_clip:ViT-L-14-336/openai", "ViT-L-14-336", 768, 336, ""),
        ("open_clip:ViT-S-32", "ViT-S-32", 384, 224, ""),
    ],
)
def test_open_clip_names(name, model, dim, size, space):
    found = profile(name)
    assert (found.name, found.kind, found.model, found.dim) == (name, "open_clip", model, dim)
    assert (found.size, found.vector_space, found.semantic) == (size, space, True)


def test_unknown_open_clip_model_names_similar_ones():
    with pytest.raises(ConfigError, match="ViT-B-32-quickgelu"):
        profile("open_clip:ViT-B-32-quickgel/openai")


def test_timm_name_takes_its_size_from_timm():
    found = profile("timm:test_vit.r160_in1k")
    assert (found.kind, found.model, found.size, found.dim) == ("timm", "test_vit.r160_in1k", 160, None)


@pytest.mark.parametrize("name", ["timm:resnet18.nope", "timm:resnet1"])
def test_unknown_timm_model_or_tag_names_similar_ones(name):
    with pytest.raises(ConfigError, match=r"resnet1\d"):
        profile(name)


def test_embedded_says_that_it_has_no_semantics():
    assert profile("embedded").semantic is False
    assert profile("embedded").vector_space == ""


@pytest.mark.parametrize("weights", ["random:1", "somewhere.pt"])
def test_embedded_takes_no_weights(weights):
    with pytest.raises(ConfigError, match="embedded"):
        load_encoder(profile("embedded"), weights=weights)


def test_profiles_are_read_without_importing_a_model_library():
    code = (
        "import sys; from image_curation.encoders import profile\n"
        "for name in ('clip-vit-l-14', 'embedded', 'open_clip:ViT-B-32/openai'): profile(name)\n"
        "print([name for name in ('torch', 'open_clip', 'timm', 'onnxruntime', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
