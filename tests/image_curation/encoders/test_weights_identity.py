"""What identifies weights before they are loaded: it must change exactly when the vectors may."""

from pathlib import Path

import pytest

from image_curation.encoders import PROFILES, load_encoder
from image_curation.encoders.base import Profile
from image_curation.encoders.identity import weights_identity
from image_curation.encoders.weights import sha256_of


@pytest.fixture
def onnx(tmp_path: Path) -> Profile:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    return Profile("onnx:m", "onnx", str(tmp_path / "model.onnx"), None, None, 224, "fp32", "", 0.9, True)


def test_embedded_is_identified_as_the_loaded_encoder_says() -> None:
    profile = PROFILES["embedded"]
    assert weights_identity(profile, None) == load_encoder(profile).weights_sha256


def test_random_weights_are_identified_by_their_seed() -> None:
    assert weights_identity(PROFILES["clip-vit-b-32"], "random:7") == "random:7"


def test_pinned_weights_need_no_file() -> None:
    identity = weights_identity(PROFILES["clip-vit-l-14"], None)
    assert identity is not None
    assert len(identity) == 64


def test_a_local_file_is_identified_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    one.write_bytes(b"weights")
    other.write_bytes(b"weights")
    profile = PROFILES["clip-vit-b-32"]
    assert weights_identity(profile, str(one)) == weights_identity(profile, str(other)) == sha256_of(one)
    other.write_bytes(b"other weights")
    assert weights_identity(profile, str(other)) != weights_identity(profile, str(one))


def test_an_onnx_model_changes_with_the_options_beside_it(onnx: Profile) -> None:
    bare = weights_identity(onnx, None)
    options = Path(f"{onnx.model}.yaml")
    options.write_text("scale: 0.0039")
    scaled = weights_identity(onnx, None)
    options.write_text("scale: 1.0")
    assert len({bare, scaled, weights_identity(onnx, None)}) == 3


def test_a_missing_file_is_left_for_loading_to_report(tmp_path: Path) -> None:
    assert weights_identity(PROFILES["clip-vit-b-32"], str(tmp_path / "absent.pt")) is None
