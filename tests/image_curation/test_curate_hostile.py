"""149 corrupt, odd and lying files in tars among good photos: the job ends, each has its row, no photo is touched."""

import csv
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from image_curation.artifacts import read_table
from image_curation.release.verify import verify_release
from image_curation.shards.grouping import IMAGE_FIELDS

CODES = {"not_an_image", "unsupported_format", "too_many_pixels", "too_many_bytes", "extreme_aspect", "decode_failed"}
DOCUMENTS = {"Pillow__negative_layer_count.psd", "Pillow__psd-oob-write-y.psd"}  # Pillow reads them, we do not
TARS = 3


@pytest.fixture(scope="module")
def hostile(shared_data: Path) -> list[dict]:
    """The manifest's rows; each with `key`, the key of its sample, and `data`."""
    folder = shared_data / "hostile-images"
    with open(folder / "manifest.csv", newline="") as manifest:
        rows = list(csv.DictReader(manifest))
    for number, row in enumerate(rows):
        row |= {"key": f"bad/{number:03}", "data": (folder / "files" / row["file"]).read_bytes()}
    return rows


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> dict[str, bytes]:
    """Key -> JPEG, of one tar of good photos."""
    with tarfile.open(shared_data / "photos" / "00000.tar") as tar:
        members = [member for member in tar if member.name.endswith(".jpg")]
        return {f"good/{member.name[:-4]}": tar.extractfile(member).read() for member in members}


def dealt(hostile: list[dict], photos: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Tars with, in turn, two or three hostile files and a photo."""
    shards: dict[str, dict[str, bytes]] = {}
    for number in range(TARS):
        members: dict[str, bytes] = {}
        good = iter(list(photos.items())[number::TARS])
        for n, row in enumerate(hostile[number::TARS]):
            extension = row["file"].rpartition(".")[2]
            members[f"{row['key']}.{extension if extension in IMAGE_FIELDS else 'jpg'}"] = row["data"]
            if n % 5 in (0, 2):
                key, data = next(good, (None, b""))
                members |= {f"{key}.jpg": data} if key else {}
        members |= {f"{key}.jpg": data for key, data in good}
        shards[f"mixed-{number}"] = members
    return shards


@pytest.fixture(scope="module")
def curated(hostile, photos, workshop, tmp_path_factory):
    """(project, result) with the hostile files, and project without them."""
    folder = tmp_path_factory.mktemp("hostile")
    shards = dealt(hostile, photos)
    clean = {
        shard: {name: data for name, data in members.items() if name.startswith("good/")}
        for shard, members in shards.items()
    }
    mixed_project = workshop.project(workshop.source(folder / "mixed", shards), folder / "mixed-out")
    clean_project = workshop.project(workshop.source(folder / "clean", clean), folder / "clean-out")
    assert workshop.run(clean_project).ledger.read == len(photos)
    return mixed_project, workshop.run(mixed_project, report=True), clean_project


def test_every_file_has_a_row_and_the_ledger_adds_up(curated, hostile, photos, workshop):
    project, result, _ = curated
    decisions = workshop.decisions(project)
    assert Counter(key for _, key in decisions) == Counter([*photos, *(row["key"] for row in hostile)])
    assert result.ledger.read == len(photos) + 149
    assert result.ledger.adds_up
    assert result.failed_shards == {}
    assert all(finding.passed for finding in result.findings.values())


def test_what_cannot_be_decoded_failed_and_all_else_was_judged(curated, hostile, workshop):
    fates = {key: row for (_, key), row in workshop.decisions(curated[0]).items()}
    failed = {row["file"] for row in hostile if fates[row["key"]]["decision"] == "failed"}
    assert failed == {row["file"] for row in hostile if row["pillow13_outcome"] != "ok"} | DOCUMENTS
    assert len(failed) == 61
    for row in hostile:
        fate = fates[row["key"]]
        if row["file"] in failed:
            assert fate["reason"] in CODES
            assert row["key"] in fate["detail"]
            assert len(fate["detail"].split()) >= 5, fate["detail"]
        else:
            assert fate["reason"] not in CODES


def test_no_photo_is_lost_and_none_has_another_fate_or_vector_than_alone(curated, photos, workshop):
    mixed, _, clean = curated
    together, alone = workshop.decisions(mixed), workshop.decisions(clean)
    assert len(alone) == len(photos)
    assert {identity: together[identity] for identity in alone} == alone
    assert Counter(row["decision"] for row in alone.values())["failed"] == 0
    for shard in clean.selected_shards():
        found, expected = (
            {row["key"]: row for row in read_table(project.embeddings_url(shard)).to_pylist()}
            for project in (mixed, clean)
        )
        assert {key: found[key] for key in expected} == expected


def test_release_holds_the_kept_ones_with_their_bytes(curated, hostile, workshop):
    project, result, _ = curated
    assert verify_release(project.release_url).samples == result.ledger.kept
    folder = Path(project.release_url) / "images"
    released = {
        row["key"]: row["sha256"] for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()
    }
    kept = {key for (_, key), row in workshop.decisions(project).items() if row["decision"] == "kept"}
    assert set(released) == kept
    checksums = {row["key"]: row["sha256"] for row in hostile if row["key"] in kept}
    assert len(checksums) > 20
    assert {key: released[key] for key in checksums} == checksums
