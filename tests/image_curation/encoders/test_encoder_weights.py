"""The setting `weights` is read as documented, files are checked, and nothing untrusted is unpickled."""

import hashlib
import os
import pickle
import re
import warnings

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from image_curation.encoders import load_encoder, profile
from image_curation.encoders.torch_model import read_state_dict
from image_curation.encoders.weights import PINNED, HubFile, Request, cached_file, fetch, local_file, parse_request
from image_curation.errors import ConfigError, WeightsError

HEX = "0123456789abcdef" * 4
SOURCE = HubFile("someone/model", ("model.safetensors", "model.bin"), "0" * 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Request()),
        ("", Request()),
        ("/models/clip.safetensors", Request(path="/models/clip.safetensors")),
        (f"/models/clip.pt@sha256:{HEX.upper()}", Request(path="/models/clip.pt", sha256=HEX)),
        (f"@sha256:{HEX}", Request(sha256=HEX)),
        ("random:7", Request(seed=7)),
    ],
)
def test_requests_are_read(text, expected):
    assert parse_request(text) == expected


@pytest.mark.parametrize("text", ["random:", "random:x", "random:-1", "clip.pt@sha256:abc", f"@sha256:{HEX}0"])
def test_bad_requests_say_what_was_expected(text):
    with pytest.raises(ConfigError, match=r"seed|64 hexadecimal digits"):
        parse_request(text)


def test_both_clip_profiles_are_pinned_by_commit_and_checksum():
    for name in ("clip-vit-l-14", "clip-vit-b-32"):
        found = profile(name)
        pinned = PINNED[found.model.removesuffix("-quickgelu"), found.pretrained]
        assert re.fullmatch("[0-9a-f]{40}", pinned.revision)
        assert re.fullmatch("[0-9a-f]{64}", pinned.sha256)
        assert pinned.names == ("open_clip_model.safetensors",)


def test_missing_local_file_names_its_path_and_the_setting(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pt.*`weights`"):
        local_file(Request(path=str(tmp_path / "nothing.pt")), "mine")


def test_local_file_is_checked_against_its_pin(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2
    plain = local_file(Request(path=str(path)), "mine")
    assert (plain.sha256, plain.pinned) == (sha256, False)
    assert local_file(Request(path=str(path), sha256=sha256), "mine").pinned
    assert local_file(Request(path=str(path)), "mine", frozenset({sha256})).pinned
    with pytest.raises(WeightsError, match=f"has SHA-256 {sha256}, but {HEX} is pinned"):
        local_file(Request(path=str(path), sha256=HEX), "mine")


def _put_into_cache(cache, content, source=SOURCE):
    folder = cache / f"models--{source.repo.replace('/', '--')}" / "snapshots" / source.revision
    folder.mkdir(parents=True)
    (folder / source.names[-1]).write_bytes(content)
    return folder / source.names[-1]


@pytest.fixture
def offline_cache(tmp_path, monkeypatch):
    """An empty local cache of the hub, and no network, as HF_HUB_OFFLINE=1 at the start of the process does it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_offline_error_says_what_was_tried_and_what_to_do(offline_cache):
    with pytest.raises(WeightsError) as caught:
        load_encoder(profile("clip-vit-l-14"))
    text = str(caught.value)
    assert "clip-vit-l-14" in text
    assert "timm/vit_large_patch14_clip_224.openai" in text
    assert "18d0535469bb561bf468d76c1d73aa35156c922b/open_clip_model.safetensors" in text
    assert str(offline_cache) in text
    assert "setting `weights`" in text
    assert "embedded" in text
    assert "\n" not in text


def test_offline_file_in_the_cache_is_used_and_checked(offline_cache):
    source = HubFile("someone/model", ("model.bin",), "0" * 40)
    assert cached_file(source) is None
    path = _put_into_cache(offline_cache, b"abc", source)
    assert cached_file(source) == path
    expected = hashlib.sha256(b"abc").hexdigest()
    assert fetch(Request(), source, "mine").sha256 == expected
    with pytest.raises(WeightsError, match="is pinned"):
        fetch(Request(sha256=HEX), source, "mine")
    with pytest.raises(WeightsError, match="is pinned"):
        fetch(Request(), HubFile(source.repo, source.names, source.revision, HEX), "mine")


def _file(path):
    return local_file(Request(path=str(path)), "mine")


def test_all_containers_give_the_same_tensors_without_the_prefix(tmp_path):
    visual = {"visual.proj": torch.arange(6.0).reshape(2, 3), "visual.ln.bias": torch.ones(2)}
    everything = {**visual, "text.weight": torch.zeros(1)}
    save_file(everything, tmp_path / "a.safetensors")
    torch.save(everything, tmp_path / "b.pt")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in everything.items()}}, tmp_path / "c.pt"
    )
    save_file({key.removeprefix("visual."): value for key, value in visual.items()}, tmp_path / "d.safetensors")
    for name in ("a.safetensors", "b.pt", "c.pt", "d.safetensors"):
        found = read_state_dict(_file(tmp_path / name), "visual.", "mine")
        assert set(found) == {"proj", "ln.bias"}, name
        assert torch.equal(found["proj"], visual["visual.proj"])


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"visual.proj": _Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "bomb.bin").write_bytes(pickle.dumps(_Bomb(), protocol=2))
    for name in ("bomb.pt", "bomb.bin"):
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            read_state_dict(_file(tmp_path / name), "visual.", "mine")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pt"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and so on", bytes(64)])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_state_dict(_file(tmp_path / name), "visual.", "mine")


def test_torchscript_archive_opens_only_with_a_pinned_checksum(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Linear(2, 3)).save(tmp_path / "openai.pt")
    plain = _file(tmp_path / "openai.pt")
    with pytest.raises(WeightsError, match=f"carries code.*{plain.sha256}"):
        read_state_dict(plain, "visual.", "mine")
    pinned = local_file(Request(path=str(plain.path), sha256=plain.sha256), "mine")
    assert read_state_dict(pinned, "visual.", "mine")["weight"].shape == (3, 2)
