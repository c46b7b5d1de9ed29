"""`image-curation preview`: tables of what other thresholds would do, and a sheet of the pairs at the border."""

import re
from types import SimpleNamespace

import pytest
from PIL import Image

from image_curation.cluster import InlineCluster
from image_curation.config import load_settings
from image_curation.curate import curate
from image_curation.project import Project


@pytest.fixture(scope="module")
def curated(demo, tmp_path_factory):
    """An original with its exact copy and a crop, and another image."""
    folder = tmp_path_factory.mktemp("curated")
    crop, copy = demo.one("cropped"), demo.one("exact")
    demo.pack(folder / "raw/a.tar", *{crop.of, copy.of, demo.plain()[0]})
    demo.pack(folder / "raw/b.tar", crop.key, copy.key)
    settings = load_settings(source=str(folder / "raw"), root=str(folder / "out"), encoder="embedded")
    result = curate(Project.load(settings), InlineCluster(), lambda *_: None)
    return SimpleNamespace(root=folder / "out", gone=sum(result.ledger.dropped.values()))


def test_own_thresholds_are_marked_with_what_was_dropped(cli, curated):
    ran = cli("preview", "--root", curated.root)
    assert ran.code == 0, ran.err
    own = re.findall(r"│ +(\S+) │ +(\d+) │ .*│ policy │", ran.out)
    assert own == [("0.9", str(curated.gone)), ("4", str(curated.gone))]
    assert curated.gone > 0
    assert ran.out.count("not used") == 2
    assert max(map(len, ran.out.splitlines())) <= 80


def test_sheet_is_written_and_its_place_is_said(cli, curated, tmp_path):
    ran = cli("preview", "--root", curated.root, "--sheet", tmp_path / "pairs.png")
    assert ran.code == 0, ran.err
    assert ran.out.endswith(f"pairs    {tmp_path}/pairs.png\n")
    with Image.open(tmp_path / "pairs.png") as sheet:
        sheet.load()
        assert sheet.format == "PNG"


def test_root_where_nothing_was_curated(cli, tmp_path):
    ran = cli("preview", "--root", tmp_path)
    assert ran.code == 1
    assert f"nothing has been curated into {tmp_path} yet" in ran.err
