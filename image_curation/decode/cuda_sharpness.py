# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""`quality.sharpness` in one pass over the pixels on a GPU, where each further pass takes time from the encoder."""

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from image_curation.decode.luminance import moments_of_sums
from image_curation.decode.quality import sharpness_of_variance

_ROWS = 16


def sharpness(pixels: torch.Tensor) -> npt.NDArray[np.float32]:
    """Of crops uint8 [n, s, s, 3] on the GPU: float32 [n] on the host, as `quality.sharpness` of their luminance."""
    count = (pixels.shape[1] - 2) ** 2
    total, squares = laplacian_sums(pixels).cpu().numpy().astype(np.float64)
    return sharpness_of_variance(moments_of_sums(total, squares, count)[1])


def laplacian_sums(pixels: torch.Tensor) -> torch.Tensor:
    """Of crops uint8 [n, s, s, 3]: sums over the inner pixels of the luminance's Laplacian, and of its square.

    The luminance is in thousandths, the Laplacian that of four neighbours; the sums are int64 [2, n] and exact.
    """
    n, side = pixels.shape[:2]
    sums = torch.zeros((2, n), dtype=torch.int64, device=pixels.device)
    if n:
        width = triton.next_power_of_2(side)
        _laplacian_sums[(n, triton.cdiv(side - 2, _ROWS))](pixels, sums, n, side, _ROWS, width, num_warps=8)
    return sums


@triton.jit
def _laplacian_sums(pixels, sums, n, side, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    image = tl.program_id(0)
    row = (tl.program_id(1) * ROWS + 1 + tl.arange(0, ROWS))[:, None]
    column = (1 + tl.arange(0, WIDTH))[None, :]
    inside = (row < side - 1) & (column < side - 1)
    here = pixels + image.to(tl.int64) * side * side * 3 + (row * side + column) * 3
    around = _luminance(here - 3, inside) + _luminance(here + 3, inside)
    around += _luminance(here - side * 3, inside) + _luminance(here + side * 3, inside)
    laplacian = (around - 4 * _luminance(here, inside)).to(tl.int64)
    tl.atomic_add(sums + image, tl.sum(tl.sum(laplacian, 1), 0))
    tl.atomic_add(sums + n + image, tl.sum(tl.sum(laplacian * laplacian, 1), 0))


@triton.jit
def _luminance(place, inside):
    """Thousandths of a grey level, 0 outside; as `luminance.luminance`."""
    red = tl.load(place, mask=inside, other=0).to(tl.int32)
    green = tl.load(place + 1, mask=inside, other=0).to(tl.int32)
    blue = tl.load(place + 2, mask=inside, other=0).to(tl.int32)
    return 299 * red + 587 * green + 114 * blue
