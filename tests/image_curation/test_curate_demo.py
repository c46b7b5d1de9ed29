"""The demo curated: what was planted is found, what was not is not, and every sample has exactly one fate."""

from collections import Counter

import duckdb
import pytest

from image_curation.artifacts import read_table
from image_curation.audit import shard_ledger, total_ledger
from image_curation.release.verify import verify_release

TWINS = ("exact", "reencoded", "resized", "cropped", "brightened")


@pytest.fixture(scope="module")
def decisions(demo, workshop):
    return workshop.decisions(demo.project)


@pytest.fixture(scope="module")
def family(demo):
    """(shard, key) -> the key of the original that it shows; its own where it is no twin."""
    return {(sample.shard, sample.key): sample.of or sample.key for sample in demo.samples}


def test_every_sample_that_was_written_has_exactly_one_row(demo, decisions):
    rows = [
        (row["shard"], row["key"])
        for shard in demo.project.selected_shards()
        for row in read_table(demo.project.selection_url(shard)).to_pylist()
    ]
    assert len(rows) == len(set(rows))
    assert set(rows) == {(sample.shard, sample.key) for sample in demo.samples}
    assert {row["decision"] for row in decisions.values()} == {"kept", "dropped", "failed"}
    assert all((row["reason"] is None) == (row["decision"] == "kept") for row in decisions.values())
    assert all(row["detail"] for row in decisions.values() if row["decision"] != "kept")


def test_ledger_counted_from_the_rows_agrees_shard_by_shard_and_in_all(demo, decisions):
    written = Counter(sample.shard for sample in demo.samples)
    for shard, n in written.items():
        ledger = shard_ledger(demo.project, shard)
        rows = [row for row in decisions.values() if row["shard"] == shard]
        assert ledger.read == n == len(rows)
        assert ledger.kept == sum(row["decision"] == "kept" for row in rows)
        assert ledger.dropped == Counter(row["reason"] for row in rows if row["decision"] == "dropped")
        assert ledger.failed == Counter(row["reason"] for row in rows if row["decision"] == "failed")
        assert ledger.adds_up
    assert total_ledger(shard_ledger(demo.project, shard) for shard in written) == demo.result.ledger
    assert demo.result.ledger.read == len(demo.samples)
    assert all(finding.passed for finding in demo.result.findings.values())


def test_planted_faults_have_their_fates(demo, decisions):
    fates = {
        sample.planted: (row["decision"], row["reason"])
        for sample in demo.samples
        for row in [decisions[sample.shard, sample.key]]
        if sample.planted and not sample.of
    }
    assert fates == {
        "truncated": ("failed", "decode_failed"),
        "text_as_image": ("failed", "not_an_image"),
        "empty": ("failed", "empty_image"),
        "no_image": ("failed", "missing_image"),
        "bomb": ("failed", "too_many_pixels"),
        "tiny": ("dropped", "low_resolution"),
        "dark": ("dropped", "too_dark"),
        "blurred": ("kept", None),  # the default policy has no floor for sharpness
        "png": ("kept", None),
        "webp": ("kept", None),
        "cmyk": ("kept", None),
        "invalid_json": ("kept", None),
        "dotted_key": ("kept", None),
        "upper_case": ("kept", None),
        "nested_key": ("kept", None),
    }


def test_no_photo_is_dropped_for_one_that_it_is_not_a_twin_of(decisions, family):
    dropped = [row for row in decisions.values() if (row["reason"] or "").startswith("duplicate_")]
    assert len(dropped) > 20
    for row in dropped:
        representative = row["representative_shard"], row["representative_key"]
        assert family[representative] == family[row["shard"], row["key"]], row
        assert decisions[representative]["decision"] == "kept"


def test_of_each_original_and_its_twins_exactly_one_is_kept(demo, decisions, family):
    """An image turned by EXIF decodes to its original's pixels. All twins of an original make one family."""
    families: dict[str, list[str]] = {}
    for (shard, key), original in family.items():
        families.setdefault(original, []).append(decisions[shard, key]["decision"])
    with_twins = {original for (_, key), original in family.items() if key != original}
    assert len(with_twins) == 12
    kept = {original: fates.count("kept") for original, fates in families.items() if original in with_twins}
    assert kept == dict.fromkeys(with_twins, 1)


@pytest.mark.parametrize("kind", TWINS)
def test_each_planted_twin_is_dropped_or_stands_for_its_group(demo, decisions, kind):
    twins = [sample for sample in demo.samples if sample.planted == kind]
    assert len(twins) == 6
    for sample in twins:
        row = decisions[sample.shard, sample.key]
        if row["decision"] == "kept":
            assert row["group"] == f"{sample.shard}/{sample.key}"
        else:
            assert row["reason"].startswith("duplicate_")


def test_exact_twins_are_found_as_exact_where_they_meet_their_original(demo, decisions):
    shard_of = {sample.key: sample.shard for sample in demo.samples}
    met = 0
    for sample in demo.samples:
        if sample.planted != "exact":
            continue
        row, original = decisions[sample.shard, sample.key], decisions[shard_of[sample.of], sample.of]
        assert row["group"] == original["group"]
        if original["decision"] == "kept":
            assert (row["reason"], row["similarity"]) == ("duplicate_exact", 1.0)
            met += 1
    assert met > 0


def test_release_holds_what_is_kept(demo, decisions):
    check = verify_release(demo.project.release_url)
    assert check.samples == demo.result.ledger.kept == demo.result.manifest.samples
    rows = duckdb.sql(f"select shard, key from '{demo.project.release_url}/images/*.parquet'").fetchall()
    assert set(rows) == {identity for identity, row in decisions.items() if row["decision"] == "kept"}


def test_vectors_can_be_queried_by_others(demo):
    """The nearest neighbour of a planted exact copy, found by DuckDB alone."""
    copy = next(sample for sample in demo.samples if sample.planted == "exact")
    found = duckdb.sql(
        f"""
        with good as (
            select shard, key, vector::float[610] as v
            from '{demo.root}/embeddings/embedded/*.parquet' where status = 'ok'
        )
        select b.key, array_cosine_similarity(a.v, b.v) as cosine
        from good a, good b where a.key = '{copy.key}' and b.key <> a.key order by cosine desc limit 1
        """
    ).fetchall()
    assert found == [(copy.of, pytest.approx(1, abs=1e-3))]


def test_report_is_written(demo):
    page = (demo.root / "report" / "report.html").read_text()
    assert f"{demo.result.ledger.read:,}" in page
    assert "demo-00000" in page
