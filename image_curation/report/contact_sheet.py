"""Turn thumbnails into pictures: one PNG of many for a step's metadata, and small JPEGs for the page."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from image_curation.report.data import PairSheet, Size, Thumbs

MOST = 48
"""Thumbnails in one sheet. More say nothing more, and the picture has to stay below 100 kB."""

LARGE, SMALL = 64, 48
"""Pixels of a cell; small where there are more than `FEW` thumbnails."""

FEW = 24
GAP, CAPTION, FONT_PX = 6, 14, 10
PAIR_GAP, TITLE_PX = 16, 13
PAPER, WELL, INK = (255, 255, 255), (238, 240, 243), (60, 66, 74)
PAGE_SIDE = 96
"""Longest side of a thumbnail in the page, pixels."""


def contact_sheet_png(
    thumbs: Thumbs,
    columns: int = 8,
    labels: Sequence[str] | None = None,
    sizes: Sequence[Size] | None = None,
    total: int | None = None,
) -> bytes:
    """A grid of thumbnails, row by row, as a PNG of 256 colours.

    Args:
        thumbs: uint8 [n, height, width, 3], RGB. At most `MOST` are shown; a line below says of how many.
        columns: cells in a row.
        labels: n texts, cut to the cell's width and written below each.
        sizes: n true (width, height), to show each picture in its own shape.
        total: how many there are, if more than n.

    Raises:
        ValueError: `columns` is not positive, or labels or sizes are not as many as the thumbnails.
    """
    total = len(thumbs) if total is None else total
    if columns < 1:
        raise ValueError(f"columns={columns} should be at least 1")
    for name, values in (("labels", labels), ("sizes", sizes)):
        if values is not None and len(values) != len(thumbs):
            raise ValueError(f"{name} has {len(values)} entries and should have {len(thumbs)}, one for each thumbnail")
    shown = min(len(thumbs), MOST)
    side = LARGE if shown <= FEW else SMALL
    columns = max(1, min(columns, shown))
    rows = -(-shown // columns)
    pitch = side + GAP + (CAPTION if labels is not None else 0)
    footer = "" if 0 < shown == total else f"showing {shown:,} of {total:,}"
    width = max(GAP + columns * (side + GAP), 150 if footer else 0)
    sheet = Image.new("RGB", (width, GAP + rows * pitch + (CAPTION + GAP if footer else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_PX)
    for i in range(shown):
        left, top = GAP + (i % columns) * (side + GAP), GAP + (i // columns) * pitch
        draw.rectangle((left, top, left + side - 1, top + side - 1), WELL)
        picture = Image.fromarray(thumbs[i]).resize(_fit(side, sizes[i] if sizes else None), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
        if labels is not None:
            draw.text((left, top + side + 1), _cut(labels[i], side, font), INK, font)
    if footer:
        draw.text((GAP, GAP + rows * pitch), footer, INK, font)
    return _png(sheet)


def pair_sheet_png(sheets: Sequence[PairSheet], columns: int = 4) -> bytes:
    """Sheets of pairs below each other, each with its title, the cosine and both names below each pair; as a PNG."""
    blocks = [_pair_block(sheet, columns) for sheet in sheets]
    page = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), PAPER)
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height
    return _png(page)


def _pair_block(sheet: PairSheet, columns: int) -> Image.Image:
    width, height = 2 * PAGE_SIDE, PAGE_SIDE + 3 * CAPTION
    n = len(sheet.thumbs)
    size = (PAIR_GAP + columns * (width + PAIR_GAP), 2 * PAIR_GAP + CAPTION + max(1, -(-n // columns)) * (height + GAP))
    block = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(FONT_PX)
    more = "" if n == sheet.total else f", showing {n:,} of {sheet.total:,}"
    draw.text((PAIR_GAP, PAIR_GAP), f"{sheet.title}{more}", INK, ImageFont.load_default(TITLE_PX))
    for i, (pair, labels, cosine) in enumerate(zip(sheet.thumbs, sheet.labels, sheet.similarities, strict=True)):
        left = PAIR_GAP + i % columns * (width + PAIR_GAP)
        top = 2 * PAIR_GAP + CAPTION + i // columns * (height + GAP)
        for end, thumb in enumerate(pair):
            picture = Image.fromarray(thumb).resize((PAGE_SIDE - 1, PAGE_SIDE - 1), Image.Resampling.LANCZOS)
            block.paste(picture, (left + end * PAGE_SIDE, top))
        for line, text in enumerate((f"cosine {cosine:.4f}", *labels)):
            draw.text((left, top + PAGE_SIDE + line * CAPTION), _cut(text, width, font), INK, font)
    if not n:
        draw.text((PAIR_GAP, 2 * PAIR_GAP + CAPTION), "There is none.", INK, font)
    return block


def thumb_jpeg(thumb: Thumbs) -> bytes:
    """One thumbnail, uint8 [height, width, 3], as a JPEG no larger than `PAGE_SIDE`."""
    picture = Image.fromarray(thumb)
    picture.thumbnail((PAGE_SIDE, PAGE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75, optimize=True)
    return buffer.getvalue()


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _fit(side: int, size: Size | None) -> Size:
    """The largest width and height of this shape that fit a square cell."""
    if size is None:
        return side, side
    longest = max(size)
    return max(1, side * size[0] // longest), max(1, side * size[1] // longest)


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of a key tells samples apart, so long texts lose their beginning."""
    text = text.replace("\n", " ")[-200:]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
