# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Decoded images of any size on a GPU -> CLIP's crops and thumbnails of the whole images, all in six kernels.

This is `resize.crop_and_thumb` for photos, in its arithmetic: Pillow's, with weights in 16-bit fixed point and bytes
between the passes, so that a GPU and a CPU make the same crop of the same pixels. Each pass goes along one axis of all
images, in the order x, y. On an H100 DALI's resizing kept the GPU busy for 16 us an image, which an encoder misses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from image_curation.decode.geometry import crop_start, resized_side
from image_curation.decode.picture import Picture
from image_curation.decode.resize import THUMB_SIZE

_CUBIC, _LINEAR = 2, 1  # half the width of each filter
_POSITIONS = 256  # of one axis that are weighed at a time
_TILE = (8, 256)  # rows, and bytes of a row, that a program makes
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Axis:
    """How n images are resized along one axis: for each the side before and after, and how many pixels make one.

    Attributes:
        before, after: int64 [n].
        scale: float64 [n], pixels of the image for one of the result.
        filter_radius: `_CUBIC` or `_LINEAR`.
    """

    before: _Numbers
    after: _Numbers
    scale: npt.NDArray[np.float64]
    filter_radius: int

    @property
    def taps(self) -> _Numbers:
        """The most pixels that one of the result is made of, int64 [n]."""
        reach: _Numbers = np.ceil(self.filter_radius * np.maximum(self.scale, 1)).astype(np.int64)
        return 2 * reach + 1


def crops_and_thumbs(pictures: Sequence[Picture], size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The crops uint8 [n, size, size, 3] and the thumbnails uint8 [n, 64, 64, 3] of n pictures, one at least.

    Args:
        pictures: their pixels, uint8 [h, w, 3], lie on `device` and are ready on torch's current stream, on which all
            work is queued: they have to stay until it is done. No side is more than four times the other.
        size: side of the crops.
    """
    arrays = [picture.pixels.__cuda_array_interface__ for picture in pictures]
    height, width = np.array([array["shape"][:2] for array in arrays], np.int64).T
    places = np.array([array["data"][0] for array in arrays], np.int64)
    strides = np.array([(array.get("strides") or [3 * array["shape"][1]])[0] for array in arrays], np.int64)
    shown = [(picture.facts.height, picture.facts.width) for picture in pictures]
    sides = [[resized_side(side, min(pair), size) for side in pair] for pair in shown]
    top, left = np.array([[crop_start(side, size) for side in pair] for pair in sides], np.int64).T
    rows, columns = np.array(sides, np.int64).T
    reduction = np.array([[picture.reduction] for picture in pictures])
    scale_y, scale_x = (np.array(shown) / (np.array(sides) * reduction)).T
    thumb = np.full(len(pictures), THUMB_SIZE)
    axes = [
        _Axis(width, columns, scale_x, _CUBIC),
        _Axis(height, rows, scale_y, _CUBIC),
        _Axis(columns, thumb, columns / thumb, _LINEAR),
        _Axis(rows, thumb, rows / thumb, _LINEAR),
    ]
    _narrow, narrow_at = _packed(height * columns * 3, device)
    _whole, whole_at = _packed(rows * columns * 3, device)
    _squeezed, squeezed_at = _packed(rows * THUMB_SIZE * 3, device)
    thumbs = torch.empty((len(pictures), THUMB_SIZE, THUMB_SIZE, 3), dtype=torch.uint8, device=device)
    thumbs_at = thumbs.data_ptr() + np.arange(len(pictures)) * thumbs[0].numel()
    crops = torch.empty((len(pictures), size, size, 3), dtype=torch.uint8, device=device)
    passes = [
        _Pass(places, strides, narrow_at, height, columns),
        _Pass(narrow_at, columns * 3, whole_at, rows, columns),
        _Pass(whole_at, columns * 3, squeezed_at, rows, thumb),
        _Pass(squeezed_at, thumb * 3, thumbs_at, thumb, thumb),
    ]
    weights = _Weights(axes, device)
    cuts = np.stack([whole_at + (top * columns + left) * 3, columns * 3])
    tables = [weights.axis_table(), weights.scales(), cuts, *map(weights.pass_table, range(4), passes)]
    axis_table, scales, cuts_on_gpu, *pass_tables = _uploaded(tables, device)
    weights.make(axis_table, scales.view(torch.float64))
    for axis, (step, table) in enumerate(zip(passes, pass_tables, strict=True)):
        weights.resample(axis, step, table)
    _cut[(len(pictures), size)](cuts_on_gpu, crops, len(pictures), size, triton.next_power_of_2(3 * size))
    return crops, thumbs


def _packed(sizes: _Numbers, device: torch.device) -> tuple[torch.Tensor, _Numbers]:
    """Room for arrays of so many bytes, and the address of each."""
    room = torch.empty(int(sizes.sum()), dtype=torch.uint8, device=device)
    return room, room.data_ptr() + _starts_of(sizes)


def _starts_of(sizes: _Numbers) -> _Numbers:
    """Where each of these parts starts, if they lie one behind the other."""
    starts: _Numbers = np.cumsum(sizes).reshape(sizes.shape) - sizes
    return starts


def _uploaded(tables: Sequence[npt.NDArray[np.generic]], device: torch.device) -> list[torch.Tensor]:
    """Tables of 64-bit numbers, as int64, by one copy: each copy waits until the GPU has time for it."""
    flat = torch.from_numpy(np.concatenate([table.reshape(-1).view(np.int64) for table in tables])).to(device)
    return list(flat.split([table.size for table in tables]))


@dataclass(frozen=True)
class _Pass:
    """One axis of n images: from addresses `source`, where rows are `stride` bytes apart, to `rows` by `columns` pixels
    at `target`, where they are packed. All int64 [n]."""

    source: _Numbers
    stride: _Numbers
    target: _Numbers
    rows: _Numbers
    columns: _Numbers


class _Weights:
    """The weights of every pixel for every pixel of the result, of n images along some axes, made on the GPU."""

    def __init__(self, axes: Sequence[_Axis], device: torch.device) -> None:
        self._axes = axes
        after = np.stack([axis.after for axis in axes])  # [axes, n], as the next three
        self._taps = np.stack([axis.taps for axis in axes])
        self._first = _starts_of(after)  # where the positions of an image along an axis are in `_begins`
        self._at = _starts_of(after * self._taps)  # and in `_weights`
        self._begins = torch.empty(int(after.sum()), dtype=torch.int32, device=device)
        self._weights = torch.empty(int((after * self._taps).sum()), dtype=torch.int32, device=device)
        self._bits = torch.empty(after.size, dtype=torch.int32, device=device)

    def axis_table(self) -> _Numbers:
        """What `make` needs of each axis of each image, int64 [axes * n, 6]."""
        before, after = (np.stack([getattr(axis, name) for axis in self._axes]) for name in ("before", "after"))
        radius = np.repeat([axis.filter_radius for axis in self._axes], after.shape[1]).reshape(after.shape)
        return np.stack([before, after, self._taps, radius, self._first, self._at], -1).reshape(-1, 6)

    def scales(self) -> npt.NDArray[np.float64]:
        """The scale of each axis of each image, float64 [axes, n]."""
        return np.stack([axis.scale for axis in self._axes])

    def pass_table(self, axis: int, step: _Pass) -> _Numbers:
        """What `resample` needs along one axis, int64 [8, n]."""
        own = [step.source, step.stride, step.target, step.rows, step.columns]
        return np.stack([*own, self._first[axis], self._at[axis], self._taps[axis]])

    def make(self, axis_table: torch.Tensor, scales: torch.Tensor) -> None:
        """Queue the making of all weights."""
        _weigh[(len(scales),)](axis_table, scales, self._begins, self._weights, self._bits, _POSITIONS)

    def resample(self, axis: int, step: _Pass, table: torch.Tensor) -> None:
        """Queue a pass along x where `axis` is even, else along y."""
        n = len(step.rows)
        grid = (n, triton.cdiv(int(step.rows.max()), _TILE[0]), triton.cdiv(3 * int(step.columns.max()), _TILE[1]))
        _resample[grid](table, self._begins, self._weights, self._bits[axis * n :], n, axis % 2 == 1, *_TILE)


@triton.jit
def _weigh(table, scales, begins, weights, bits, POSITIONS: tl.constexpr):
    """One axis of one image. As Pillow: weights in float64, then as many bits as the largest one lets fit into 16."""
    axis = tl.program_id(0)
    table += axis * 6
    before, after, taps, radius = tl.load(table), tl.load(table + 1), tl.load(table + 2), tl.load(table + 3)
    begins += tl.load(table + 4)
    weights += tl.load(table + 5)
    scale = tl.load(scales + axis)
    wide = tl.maximum(scale, 1.0)
    largest = tl.zeros((), tl.float64)
    for start in range(0, after, POSITIONS):
        position = start + tl.arange(0, POSITIONS)
        total = tl.zeros((POSITIONS,), tl.float64)
        most = tl.zeros((POSITIONS,), tl.float64)
        begin, end, centre = _reach(position, scale, wide * radius, before)
        for tap in range(taps):
            weight = _filter((begin + tap - centre + 0.5) / wide, begin + tap < end, radius)
            total += weight
            most = tl.maximum(most, weight)
        largest = tl.maximum(largest, tl.max(tl.where(position < after, most / total, 0.0), 0))
    n_bits = 0
    for step in range(1, 23):  # the most bits of up to 22 with which the largest weight stays below 2^15
        n_bits += ((0.5 + largest * (1 << step)).to(tl.int64) < 32768).to(tl.int32)
    n_bits = tl.minimum(n_bits, 22)
    tl.store(bits + axis, n_bits)
    one = (1 << n_bits).to(tl.float64)
    for start in range(0, after, POSITIONS):
        position = start + tl.arange(0, POSITIONS)
        inside = position < after
        total = tl.zeros((POSITIONS,), tl.float64)
        begin, end, centre = _reach(position, scale, wide * radius, before)
        for tap in range(taps):
            total += _filter((begin + tap - centre + 0.5) / wide, begin + tap < end, radius)
        tl.store(begins + position, begin.to(tl.int32), mask=inside)
        for tap in range(taps):
            weight = _filter((begin + tap - centre + 0.5) / wide, begin + tap < end, radius) / total * one
            rounded = tl.where(weight < 0, weight - 0.5, weight + 0.5).to(tl.int32)
            tl.store(weights + position * taps + tap, rounded, mask=inside)


@triton.jit
def _reach(position, scale, radius, before):
    """The half-open range of pixels that a position is made of, and its centre among them."""
    centre = scale * (position.to(tl.float64) + 0.5)
    begin = tl.maximum((centre - radius + 0.5).to(tl.int64), 0)
    end = tl.minimum((centre + radius + 0.5).to(tl.int64), before)
    return begin, end, centre


@triton.jit
def _filter(x, inside, radius):
    """Pillow's bicubic filter (a = -0.5), or a triangle where the radius is 1."""
    x = tl.abs(x)
    near = ((1.5 * x - 2.5) * x) * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    cubic = tl.where(x < 1, near, tl.where(x < 2, far, 0.0))
    linear = tl.where(x < 1, 1.0 - x, 0.0)
    return tl.where(inside, tl.where(radius == 2, cubic, linear), 0.0)


@triton.jit
def _resample(table, begins, weights, bits, n, DOWN: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr):
    """A tile of one image: each byte is a sum over bytes of its own row, or with DOWN of its own column."""
    image = tl.program_id(0)
    table += image
    rows, columns = tl.load(table + 3 * n), tl.load(table + 4 * n)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    byte = tl.program_id(2) * BYTES + tl.arange(0, BYTES)
    if (tl.program_id(1) * ROWS < rows) & (tl.program_id(2) * BYTES < 3 * columns):
        source = tl.load(table).to(tl.pointer_type(tl.uint8))
        stride = tl.load(table + n)
        target = tl.load(table + 2 * n).to(tl.pointer_type(tl.uint8))
        begins += tl.load(table + 5 * n)
        weights += tl.load(table + 6 * n)
        taps = tl.load(table + 7 * n)
        n_bits = tl.load(bits + image)
        inside = (row < rows)[:, None] & (byte < 3 * columns)[None, :]
        if DOWN:
            begin = tl.load(begins + row, mask=row < rows, other=0)
            place = source + (begin * stride)[:, None] + byte[None, :]
            weight_at = weights + row * taps
            step = stride
        else:
            column = byte // 3
            begin = tl.load(begins + column, mask=column < columns, other=0)
            place = source + (row * stride)[:, None] + (begin * 3 + byte % 3)[None, :]
            weight_at = weights + column * taps
            step = stride * 0 + 3
        total = tl.zeros((ROWS, BYTES), tl.int32) + (1 << (n_bits - 1))
        for tap in range(taps):
            if DOWN:
                weight = tl.load(weight_at + tap, mask=row < rows, other=0)[:, None]
            else:
                weight = tl.load(weight_at + tap, mask=column < columns, other=0)[None, :]
            # Beyond an image's last pixel, and only there, weights are zero: nothing is read there.
            value = tl.load(place + tap * step, mask=inside & (weight != 0), other=0)
            total += value.to(tl.int32) * weight
        value = tl.minimum(tl.maximum(total >> n_bits, 0), 255).to(tl.uint8)
        tl.store(target + (row * (3 * columns))[:, None] + byte[None, :], value, mask=inside)


@triton.jit
def _cut(table, crops, n, size, WIDTH: tl.constexpr):
    """One row of one crop."""
    image, row = tl.program_id(0), tl.program_id(1)
    source = tl.load(table + image).to(tl.pointer_type(tl.uint8)) + row * tl.load(table + n + image)
    byte = tl.arange(0, WIDTH)
    value = tl.load(source + byte, mask=byte < 3 * size)
    tl.store(crops + (image.to(tl.int64) * size + row) * size * 3 + byte, value, mask=byte < 3 * size)
