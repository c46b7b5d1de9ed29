"""`image-curation why` and `report` over a finished curation."""

import shutil
from types import SimpleNamespace

import pytest

from image_curation.cluster import InlineCluster
from image_curation.config import load_settings
from image_curation.curate import curate
from image_curation.project import Project


@pytest.fixture(scope="module")
def curated(demo, tmp_path_factory):
    """A shard with an original, another with its exact copy, and a truncated JPEG; and the key of each."""
    folder = tmp_path_factory.mktemp("curated")
    copy, broken = demo.one("exact"), demo.one("truncated").key
    alone = demo.plain()[0]
    demo.pack(folder / "raw/a.tar", copy.of, alone)
    demo.pack(folder / "raw/b.tar", copy.key, broken, alone)
    settings = load_settings(source=str(folder / "raw"), root=str(folder / "out"), encoder="embedded")
    curate(Project.load(settings), InlineCluster(), lambda *_: None)
    return SimpleNamespace(root=folder / "out", original=copy.of, copy=copy.key, broken=broken, twice=alone)


def test_dropped_names_the_rule_the_representative_and_the_group(cli, curated):
    ran = cli("why", curated.copy, "--root", curated.root)
    assert ran.code == 0
    first = f"b/{curated.copy} dropped duplicate exact: the same bytes as a/{curated.original} (cosine 1.0000), "
    assert ran.words.startswith(first)
    assert (
        f"duplicate group a/{curated.original}, 2 images: kept a/{curated.original} represents the group" in ran.words
    )
    assert f"dropped b/{curated.copy} cosine 1.0000, exact" in ran.words
    assert f"lead to its representative: b/{curated.copy} -exact-> a/{curated.original} what made" in ran.words
    assert "survivor aesthetic > resolution > bytes > first" in ran.words
    assert "searched by comparing all with all" in ran.words
    for measure in ("aesthetic none", "width ", "sharpness ", "exposure ", "contrast ", "caption ", "sha256 "):
        assert measure in ran.words
    assert max(map(len, ran.out.splitlines())) <= 80


def test_hash_is_shown_whole(cli, curated, demo):
    out = cli("why", curated.broken, "--root", curated.root).out
    digits = "".join(line.split()[-1] for line in out[out.index("sha256") :].splitlines()[:2])
    assert len(digits) == 64
    assert int(digits, 16)


def test_kept_says_so(cli, curated):
    ran = cli("why", curated.original, "--root", curated.root)
    assert ran.code == 0
    assert ran.words.startswith(f"a/{curated.original} kept it passes every rule of the policy")


def test_failed_gives_the_error(cli, curated):
    ran = cli("why", curated.broken, "--root", curated.root)
    assert ran.code == 0
    assert ran.words.startswith(f"b/{curated.broken} failed b/{curated.broken}: ")


def test_key_of_several_shards_is_explained_in_each_and_can_be_narrowed_down(cli, curated):
    both = cli("why", curated.twice, "--root", curated.root).out
    assert f"a/{curated.twice}  kept" in both
    assert f"b/{curated.twice}  dropped" in both
    one = cli("why", f"b/{curated.twice}", "--root", curated.root).out
    assert f"a/{curated.twice}  kept  it passes" not in one
    assert one.startswith(f"b/{curated.twice}  dropped")


def test_unknown_key_is_an_error_with_the_next_step(cli, curated):
    ran = cli("why", "nobody", "--root", curated.root)
    assert ran.code == 1
    assert ran.err.startswith(
        f"error ConfigError: no sample 'nobody' below {curated.root}. Give its key, or SHARD/KEY;"
    )


def test_root_may_come_from_the_environment(cli, curated, monkeypatch):
    assert cli("why", curated.copy).code == 2
    monkeypatch.setenv("IMAGE_CURATION_ROOT", str(curated.root))
    assert cli("why", curated.copy).code == 0


@pytest.mark.parametrize("arguments", [["why", "key"], ["report"]])
def test_root_where_nothing_was_curated(cli, tmp_path, arguments):
    ran = cli(*arguments, "--root", tmp_path)
    assert ran.code == 1
    assert f"nothing has been curated into {tmp_path} yet: `image-curation curate SOURCE {tmp_path}` does." in ran.err


def test_report_is_made_again_and_its_place_is_said_whole(cli, curated):
    page = curated.root / "report/report.html"
    before = page.read_bytes()
    shutil.rmtree(page.parent)
    ran = cli("report", "-r", curated.root)
    assert (ran.code, ran.out) == (0, f"report   {page}\n")
    assert page.read_bytes() == before
