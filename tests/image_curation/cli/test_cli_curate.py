"""`image-curation curate`: the whole job, its table, its exit codes, and what it says when it cannot."""

import json
import re

import pytest
import webdataset
import yaml

from image_curation.release.verify import verify_release

ROW = re.compile(r"│ (\w+) +│ (.*?) +│ +([\d,]+) │")
STEPS = ("shard_index", "embeddings", "aesthetic_scores", "nsfw_scores", "duplicate_groups", "selection")


@pytest.fixture
def source(demo, tmp_path):
    """Two good tars: five photographs, a copy of one, a truncated JPEG, and a sample without an image."""
    copy = demo.one("exact")
    keys = demo.plain()
    demo.pack(tmp_path / "raw/a.tar", *keys[:3], copy.of)
    demo.pack(tmp_path / "raw/b.tar", keys[3], copy.key, demo.one("truncated").key, demo.one("no_image").key)
    return tmp_path / "raw"


def ledger(out: str) -> dict[tuple[str, str], int]:
    """(fate, reason) -> samples, as the table in the terminal has it."""
    return {(fate, reason.strip()): int(n.replace(",", "")) for fate, reason, n in ROW.findall(out)}


def test_curates_and_says_what_became_of_every_sample(command, source, tmp_path):
    dest = tmp_path / "curated"
    ran = command("curate", source, dest)
    assert ran.code == 0, ran.err
    assert ledger(ran.out) == {
        ("kept", ""): 5,
        ("dropped", "duplicate exact"): 1,
        ("failed", "decode failed"): 1,
        ("failed", "missing image"): 1,
        ("read", "= kept + dropped + failed"): 8,
    }
    assert re.findall(r"^(ok  |LOOK) ", ran.out, re.MULTILINE) == ["ok  "] * 5
    for step in (*STEPS, "curated_shards", "curation_report"):
        assert re.search(rf"^{step} .* (\d+)/\1 ", ran.out, re.MULTILINE)
    assert f"release  {dest}/release (5 samples in 1 tars)\n" in ran.out
    assert f"report   {dest}/report/report.html\n" in ran.out
    assert "The encoder `embedded` is not CLIP" in ran.out
    assert verify_release(str(dest / "release")).samples == 5
    tars = [str(path) for path in (dest / "release/images").glob("*.tar")]
    assert sum(1 for _ in webdataset.WebDataset(tars, shardshuffle=False)) == 5


def test_output_fits_80_columns_but_for_paths_that_must_stay_whole(cli, source, tmp_path):
    ran = cli("curate", source, tmp_path / "curated")
    wide = [line for line in ran.out.splitlines() if len(line) > 80]
    assert ran.code == 0
    assert len(ran.out.splitlines()) > 20
    assert [line for line in wide if not line.startswith(("release  ", "report   ", "no aesthetic", "no nsfw"))] == []


def test_second_run_reuses_all_and_gives_the_same_release(cli, source, tmp_path):
    dest = tmp_path / "curated"
    assert cli("curate", source, dest).code == 0
    made = {path: path.stat().st_mtime_ns for path in dest.rglob("*.parquet")}
    manifest = (dest / "release/manifest.json").read_bytes()
    assert cli("curate", source, dest).code == 0
    assert {path: path.stat().st_mtime_ns for path in dest.rglob("*.parquet")} == made
    assert (dest / "release/manifest.json").read_bytes() == manifest


def test_garbage_tar_is_named_and_the_rest_is_curated_with_exit_code_3(cli, source, tmp_path):
    (source / "trash.tar").write_bytes(b"<html>502 Bad Gateway</html>")
    ran = cli("curate", source, tmp_path / "curated")
    assert ran.code == 3
    assert "LOOK shards are readable: 1 tars cannot be read and 0 are damaged." in ran.words
    assert "trash.tarisnotar" in "".join(ran.out.split())  # a path longer than a line is broken
    assert ledger(ran.out)["read", "= kept + dropped + failed"] == 8
    assert verify_release(str(tmp_path / "curated/release")).samples == 5


def test_packed_tar_is_said_to_be_ignored_by_its_whole_name(cli, source, tmp_path):
    (source / "[bold]more.tar.gz").write_bytes(b"\x1f\x8b")
    ran = cli("curate", source, tmp_path / "curated")
    assert ran.code == 0
    assert "ignored [bold]more.tar.gz: only plain .tar files are read\n" in ran.out


def test_shard_that_fails_in_a_step_is_left_out_and_named_with_exit_code_3(cli, source, tmp_path, monkeypatch):
    import image_curation.curate as library
    from image_curation.errors import StorageError

    def scores(project, score, shard):
        if shard == "b":
            raise StorageError("cannot read [b]: the disk is on fire.")
        return real(project, score, shard)

    real = library.build_scores
    monkeypatch.setattr(library, "build_scores", scores)
    ran = cli("curate", source, tmp_path / "curated")
    assert ran.code == 3
    assert (
        "failed b: aesthetic_scores: cannot read [b]: the disk is on fire. "
        "Run the same command again to retry it alone.\n"
    ) in ran.out
    assert ledger(ran.out)["read", "= kept + dropped + failed"] == 4
    monkeypatch.undo()


def test_policy_file_is_obeyed(cli, source, tmp_path):
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"duplicates": {"exact": False, "max_phash_distance": None}}))
    ran = cli("curate", source, tmp_path / "curated", "--policy", tmp_path / "policy.yaml")
    assert ran.code == 0
    assert ("dropped", "duplicate exact") not in ledger(ran.out)
    manifest = json.loads((tmp_path / "curated/release/manifest.json").read_text())
    assert sum(manifest["ledger"]["dropped"].values()) == ledger(ran.out).get(("dropped", "duplicate semantic"), 0)


def test_images_of_an_earlier_curation_are_left_out(cli, source, tmp_path):
    assert cli("curate", source, tmp_path / "earlier").code == 0
    (tmp_path / "policy.yaml").write_text("known: {reference: [earlier]}")
    options = ("--policy", tmp_path / "policy.yaml", "--known", f"earlier={tmp_path / 'earlier'}")
    ran = cli("curate", source, tmp_path / "curated", *options)
    assert ran.code == 0
    assert ledger(ran.out)["dropped", "in reference"] == 6
    assert re.search(r"^known_matches .* 2/2 ", ran.out, re.MULTILINE)
    ran = cli("curate", source, tmp_path / "curated", "--known", "earlier")
    assert ran.code == 2
    assert "'earlier' should be NAME=PLACE." in ran.err


def refused(ran, *sentences: str) -> None:
    """Exit code 1 and a sentence of the named error, on one line of stderr, without a traceback."""
    assert ran.code == 1
    assert "Traceback" not in ran.err
    line = next(line for line in ran.err.splitlines() if line.startswith("error "))
    assert re.match(r"error [A-Z]\w+: \S", line)
    for sentence in sentences:
        assert sentence in ran.err


def test_folder_without_tars(command, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = command("curate", tmp_path / "empty", tmp_path / "curated")
    refused(ran, f"error ConfigError: there is no .tar file below {tmp_path}/empty (0 other files).")
    assert not (tmp_path / "curated").exists()


def test_folder_that_is_not_there(cli, tmp_path):
    refused(cli("curate", tmp_path / "no", tmp_path / "curated"), f"error StorageError: cannot list {tmp_path}/no: ")


def test_source_with_nothing_but_packed_tars(cli, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.tar.gz").write_bytes(b"\x1f\x8b")
    refused(cli("curate", tmp_path / "raw", tmp_path / "curated"), "a.tar.gz looks like a packed one. Unpack it")


def test_policy_with_an_unknown_key_and_a_wrong_value(cli, source, tmp_path):
    (tmp_path / "policy.yaml").write_text("imagee: {}\nimage: {min_short_side: tall}\n")
    refused(
        cli("curate", source, tmp_path / "curated", "--policy", tmp_path / "policy.yaml"),
        f"error ConfigError: policy file {tmp_path}/policy.yaml:",
        "  imagee: there is no such key. Allowed here: image, caption, aesthetic, nsfw, duplicates, known, release.",
        "  image.min_short_side: ",
        "it is 'tall'.",
    )


def test_policy_file_that_is_not_there(cli, source, tmp_path):
    ran = cli("curate", source, tmp_path / "curated", "--policy", tmp_path / "no.yaml")
    refused(ran, f"there is no policy file {tmp_path}/no.yaml. `image-curation policy` prints one to start from.")


def test_unknown_encoder(cli, source, tmp_path):
    ran = cli("curate", source, tmp_path / "curated", "--encoder", "clp")
    refused(
        ran, "error ConfigError: there is no encoder 'clp'. Allowed: clip-vit-l-14, clip-vit-l-14-fp8, clip-vit-b-32, "
    )


def test_wrong_setting_names_its_variable(cli, source, tmp_path):
    refused(
        cli("curate", source, tmp_path / "curated", "--workers", "0", "--device", "gpu"),
        "IMAGE_CURATION_WORKERS: Input should be greater than or equal to 1",
        "IMAGE_CURATION_DEVICE: Input should be 'auto', 'cpu' or 'cuda'",
    )


def test_weights_that_are_missing_offline(command, source, tmp_path):
    ran = command("curate", source, tmp_path / "curated", "--encoder", "clip-vit-b-32")
    refused(ran, "error WeightsError: ", "clip-vit-b-32")


def test_weights_file_that_is_not_there(cli, source, tmp_path):
    ran = cli(
        "curate", source, tmp_path / "curated", "--encoder", "clip-vit-b-32", "--weights", tmp_path / "no.safetensors"
    )
    refused(ran, "error WeightsError: ", "no.safetensors")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["curate"], "Missing argument 'source'"),
        (["curate", "raw"], "Missing argument 'dest'"),
        (["curate", "raw", "out", "--workers", "many"], "parse string as an integer"),
        (["curate", "raw", "out", "--colour"], "No such option"),
        (["cure", "raw", "out"], "No such command 'cure'"),
    ],
)
def test_wrong_usage_is_exit_code_2(cli, arguments, said):
    ran = cli(*arguments)
    assert ran.code == 2
    assert said in ran.words
    assert "Traceback" not in ran.err
