"""Help, the policy file to start from, the look at the machine, and fetching without a network."""

import re

import pytest
import yaml

import image_curation.doctor
from image_curation.policy import Policy, load_policy

MENTIONED = {
    "demo": ["folder", ".demo"],
    "curate": ["source", "dest", "--encoder", "--policy", "--weights", "--heads", "--device", "--cluster", "--workers"],
    "inspect": ["shard", "--limit"],
    "why": ["key", "--root", "IMAGE_CURATION_ROOT"],
    "preview": ["--root", "--sheet", "IMAGE_CURATION_ROOT"],
    "report": ["--root", "IMAGE_CURATION_ROOT"],
    "train": ["place", "out", "--label-field", "--model", "torchrun"],
    "export": ["out", "--as", "--root", "documents", "mds"],
    "policy": ["policy.yaml"],
    "fetch": ["encoder"],
    "doctor": ["GPU", "weights"],
}


def test_help_lists_every_command(cli):
    ran = cli("--help")
    assert ran.code == 0
    listed = re.findall(r"^│ (\w+)  +\S", ran.out[ran.out.index("Commands") :], re.MULTILINE)
    assert listed == list(MENTIONED)


@pytest.mark.parametrize("name", MENTIONED)
def test_help_of_a_command_mentions_its_arguments_within_80_columns(cli, name):
    ran = cli(name, "--help")
    assert ran.code == 0
    for word in MENTIONED[name]:
        assert word in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_no_command_shows_the_help(cli):
    ran = cli()
    assert ran.code == 2
    assert "Usage: " in ran.words


def test_policy_round_trips(command, tmp_path):
    ran = command("policy")
    assert ran.code == 0
    path = tmp_path / "policy.yaml"
    path.write_text(ran.out)
    assert load_policy(path) == Policy()
    assert yaml.safe_load(ran.out) == Policy().model_dump(mode="json")
    assert all("#" in line or not line.strip() or re.match(r" *\w+:", line) for line in ran.out.splitlines())


def test_policy_is_plain_text_even_where_lines_are_long(cli):
    assert max(map(len, cli("policy").out.splitlines())) > 80


def test_doctor_finds_this_machine_in_order(command):
    ran = command("doctor")
    assert ran.code == 0, ran.out
    lines = dict(re.findall(r"^(?:ok|absent) +(\S+(?: \S+)*)  +(\S.*)$", ran.out, re.MULTILINE))
    assert "a good image is decoded on c" in lines["decoding"]
    assert lines["DALI"].startswith("nvidia-dali-cuda1")
    for package in ("dagster", "torch", "open_clip_torch", "pyarrow", "s3fs"):
        assert re.match(r"\d+\.\d+", lines[package])
    for name in ("clip-vit-l-14", "clip-vit-b-32", "embedded"):
        assert f"encoder {name}" in lines
    assert "BROKEN" not in ran.out


def test_doctor_with_a_broken_part_says_which_and_ends_with_exit_code_1(cli, monkeypatch):
    def no_decoder() -> str:
        raise ImportError("libnvjpeg.so: cannot open [shared] object file")

    monkeypatch.setattr(image_curation.doctor, "_decodes", no_decoder)
    ran = cli("doctor")
    assert ran.code == 1
    assert "BROKEN decoding" in ran.out
    assert "ImportError: libnvjpeg.so: cannot open [shared] object file" in ran.words
    assert "1 things are broken." in ran.out


def test_doctor_without_a_package_says_how_to_get_it(cli, monkeypatch):
    version = image_curation.doctor._version
    monkeypatch.setattr(
        image_curation.doctor, "_version", lambda name: None if "dali" in name or name == "s3fs" else version(name)
    )
    ran = cli("doctor")
    assert ran.code == 1
    assert "BROKEN s3fs" in ran.out
    assert "BROKEN DALI" in ran.out
    assert "choose the extra cpu, gpu or gpu-cu13" in ran.words
    assert "2 things are broken." in ran.out


def test_fetch_without_a_network_says_what_to_do(command):
    ran = command("fetch", "clip-vit-b-32")
    assert ran.code == 1
    assert ran.err.startswith("error WeightsError: ")
    assert "Traceback" not in ran.err


def test_fetch_of_an_unknown_encoder_lists_what_is_allowed(cli):
    ran = cli("fetch", "clip")
    assert ran.code == 1
    assert "Allowed: clip-vit-l-14, clip-vit-l-14-fp8, clip-vit-b-32, " in ran.err


def test_errors_of_our_own_making_are_sentences_but_a_bug_is_not_hidden(cli, monkeypatch):
    import image_curation.policy

    def bug() -> str:
        raise KeyError("a bug")

    monkeypatch.setattr(image_curation.policy, "policy_yaml", bug)
    with pytest.raises(KeyError, match="a bug"):
        cli("policy")
