"""`image-curation demo`: one command from nothing to a release that is read back."""

import re

import pytest

from image_curation.release.verify import verify_release

ROW = re.compile(r"│ (\w+) +│ (.*?) +│ +([\d,]+) │")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def test_demo_makes_curates_reads_back_and_says_where_to_look(command, folder):
    # whoever works with another encoder has it in the environment; the demo must not try to fetch it
    ran = command("demo", folder, IMAGE_CURATION_ENCODER="clip-vit-l-14")

    assert ran.code == 0, ran.err
    rows = {(fate, reason.strip()): int(n) for fate, reason, n in ROW.findall(ran.out)}
    read = rows.pop(("read", "= kept + dropped + failed"))
    assert read == sum(rows.values())
    assert re.match(rf"made {read} samples in 6 tars, \d+ of them planted faults and twins\n", ran.out)
    fates = {fate for fate, _ in rows}
    assert fates == {"kept", "dropped", "failed"}
    assert {reason for fate, reason in rows if fate == "failed"} == {
        "decode failed",
        "empty image",
        "missing image",
        "not an image",
        "too many pixels",
    }
    assert ("dropped", "duplicate exact") in rows
    kept = rows["kept", ""]
    assert f"release  {folder}/curated/release: webdataset read {kept} samples back\n" in ran.out
    assert verify_release(f"{folder}/curated/release").samples == kept
    assert f"report   {folder}/curated/report/report.html\n" in ran.out
    assert (folder / "curated/report/report.html").stat().st_size > 100_000
    assert "UI       make dev, then open http://localhost:3000\n" in ran.out
    assert re.findall(r"^(ok  |LOOK) ", ran.out, re.MULTILINE) == ["ok  "] * 5
    for step in ("shard_index", "embeddings", "curation_report", "curated_shards_release_equals_selection"):
        assert f"✓ {step} " in ran.err
    assert "Traceback" not in ran.err
    assert "telemetry" not in ran.err
    assert "enabled: false" in (folder / "dagster/dagster.yaml").read_text()


def test_demo_in_a_folder_that_cannot_be_written_is_a_sentence(command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    ran = command("demo", tmp_path / "file")
    assert ran.code == 1
    assert ran.err.startswith("error StorageError: cannot ")
    assert "Traceback" not in ran.err
