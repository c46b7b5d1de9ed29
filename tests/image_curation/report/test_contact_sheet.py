"""Contact sheets: as large as the grid says, each picture in its cell and shape, small enough for metadata."""

import io

import numpy as np
import pytest
from PIL import Image

from image_curation.report.contact_sheet import contact_sheet_png, pair_sheet_png, thumb_jpeg
from image_curation.report.data import PairSheet


def plain(*colours: tuple[int, int, int], side: int = 64) -> np.ndarray:
    return np.stack([np.full((side, side, 3), colour, np.uint8) for colour in colours])


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


RED, GREEN, BLUE = (200, 0, 0), (0, 160, 0), (0, 0, 200)


def test_size_and_places():
    sheet = opened(contact_sheet_png(plain(RED, GREEN, BLUE), columns=2))
    assert (sheet.format, sheet.size) == ("PNG", (6 + 2 * 70, 6 + 2 * 70))
    pixels = np.asarray(sheet.convert("RGB"))
    assert tuple(pixels[6 + 32, 6 + 32]) == RED
    assert tuple(pixels[6 + 32, 76 + 32]) == GREEN
    assert tuple(pixels[76 + 32, 6 + 32]) == BLUE
    assert tuple(pixels[76 + 32, 76 + 32]) == (255, 255, 255)


def test_labels_take_room_below_each_row():
    sheet = opened(contact_sheet_png(plain(RED, GREEN), 2, ["a", "a/very/long/key/that/does/not/fit.at.all"]))
    assert sheet.size == (146, 6 + 84)
    text = np.asarray(sheet.convert("L"))[72:84]
    assert (text[:, 6:70] < 150).any()
    assert (text[:, 76:140] < 150).any()
    assert not (text[:, 142:] < 250).any()


def test_true_sizes_undo_the_squashing():
    sheet = opened(contact_sheet_png(plain(RED, RED), 2, sizes=[(400, 200), (100, 400)]))
    red = (np.asarray(sheet.convert("RGB")) == RED).all(-1)
    assert red[6:70, 6:70].sum() == 64 * 32
    assert red[6:70, 76:140].sum() == 16 * 64


def test_more_than_fit_are_capped_and_a_line_says_so():
    shown_all = opened(contact_sheet_png(plain(*[RED] * 48), 8))
    capped = opened(contact_sheet_png(plain(*[RED] * 60), 8))
    assert shown_all.size == (6 + 8 * 54, 6 + 6 * 54)
    assert capped.size == (shown_all.width, shown_all.height + 20)
    told = opened(contact_sheet_png(plain(*[RED] * 4), 4, total=1_234))
    assert told.height == 6 + 70 + 20


def test_none_at_all():
    sheet = opened(contact_sheet_png(np.empty((0, 64, 64, 3), np.uint8)))
    sheet.load()
    assert sheet.size == (150, 26)


def test_noise_is_the_worst_case_and_still_small():
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3)).astype(np.uint8)
    labels = [f"shard-00000/key-{i:06}" for i in range(60)]
    assert len(contact_sheet_png(noise, 8, labels)) < 150_000
    smooth = np.stack([np.asarray(Image.fromarray(one).resize((8, 8)).resize((64, 64))) for one in noise])
    assert len(contact_sheet_png(smooth, 8, labels)) < 100_000


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"columns": 0}, "columns=0 should be at least 1"),
        ({"labels": ["a"]}, "labels has 1 entries and should have 2"),
        ({"sizes": [(1, 1)] * 3}, "sizes has 3 entries and should have 2"),
    ],
)
def test_wrong_arguments_are_named(more, text):
    with pytest.raises(ValueError, match=text):
        contact_sheet_png(plain(RED, GREEN), **more)


def test_thumb_is_a_jpeg_no_larger_than_the_page_shows():
    assert opened(thumb_jpeg(plain(RED)[0])).size == (64, 64)
    large = opened(thumb_jpeg(np.full((64, 128, 3), 90, np.uint8)))
    assert (large.format, large.size) == ("JPEG", (96, 48))


def pairs(*colours: tuple[int, int, int], total: int | None = None) -> PairSheet:
    thumbs = np.reshape([np.full((64, 64, 3), colour, np.uint8) for colour in colours], (-1, 2, 64, 64, 3))
    n = len(thumbs)
    return PairSheet("Just above 0.9", thumbs, [("a/left", "b/right")] * n, [0.91] * n, n if total is None else total)


def test_pairs_stand_side_by_side_with_room_for_cosine_and_names():
    sheet = opened(pair_sheet_png([pairs(RED, GREEN, BLUE, RED)], columns=2))
    pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert sheet.size == (16 + 2 * (192 + 16), 2 * 16 + 14 + 96 + 3 * 14 + 6)
    row = pixels[46 + 48]
    assert [tuple(row[x]) for x in (16 + 48, 16 + 96 + 48, 224 + 48, 224 + 96 + 48)] == [RED, GREEN, BLUE, RED]
    for line in range(3):
        assert (pixels[142 + 14 * line : 156 + 14 * line, 16:208] < 150).any()


def test_sheets_of_pairs_stand_below_each_other_and_an_empty_one_says_so():
    one, none = pairs(RED, GREEN), pairs()
    both = opened(pair_sheet_png([one, none]))
    assert both.height == opened(pair_sheet_png([one])).height + opened(pair_sheet_png([none])).height
    assert (np.asarray(opened(pair_sheet_png([none])).convert("L"))[46:60] < 150).any()


def test_title_of_a_sheet_of_pairs_says_of_how_many():
    few, many = (np.asarray(opened(pair_sheet_png([pairs(RED, GREEN, total=n)])).convert("L")) for n in (1, 900))
    assert few.shape == many.shape
    assert (many[16:32] < 150).sum() > (few[16:32] < 150).sum()
