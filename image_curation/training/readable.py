"""A dataset -> the same without the images that DALI cannot decode, each with the reason it was left out for.

One image that DALI cannot decode costs it the whole batch and its count of the epoch, so none may get there. GIF, AVIF,
TIFF, BMP, PNM and JPEG 2000 are left out whole: DALI does not read the first two, and a damaged file in some of the
others ends the process in its decoders. JPEG, PNG and WebP are decoded once, by the decoders that DALI has on the CPU.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from nvidia import nvimgcodec  # type: ignore[attr-defined]

from image_curation import storage
from image_curation.decode.codec import PARAMS, check_decoder
from image_curation.decode.limits import DecodeLimits
from image_curation.errors import ImageError
from image_curation.shards.header import check_limits, read_header
from image_curation.training.dataset import Dataset

DECODED_FORMATS = frozenset({"JPEG", "PNG", "WEBP"})
_LIMITS = DecodeLimits()


def unreadable(dataset: Dataset, rows: Sequence[int], threads: int) -> dict[int, str]:
    """Of these rows, those whose images DALI should not get: row -> reason.

    Costs about as much as an epoch of training on a CPU does in decoding. Reasons are the statuses of the index
    (`not_an_image`, `too_many_pixels`, ...), `format_not_trained_on` and `decode_failed`.
    """
    local = threading.local()

    def look(block: Sequence[int]) -> dict[int, str]:
        if not hasattr(local, "decoder"):
            local.decoder = _decoder()
        return dict(_faults(dataset, block, local.decoder))

    check_decoder(_decoder(), "on the CPU")
    blocks = np.array_split(np.array(rows, dtype=np.int64), max(1, len(rows) // 64))
    with ThreadPoolExecutor(threads, thread_name_prefix="readable") as pool:
        return {
            row: reason
            for found in pool.map(look, [block.tolist() for block in blocks])
            for row, reason in found.items()
        }


def image_bytes(dataset: Dataset, row: int) -> bytes:
    """The image file of a row as it lies on disk."""
    with storage.open_read(dataset.files[dataset.file[row]]) as file:
        file.seek(int(dataset.offset[row]))
        return file.read(int(dataset.size[row]))


def _faults(dataset: Dataset, rows: Sequence[int], decoder: Any) -> Iterator[tuple[int, str]]:
    for row in rows:
        data = image_bytes(dataset, row)
        try:
            header = read_header(data)
            check_limits(header, len(data), _LIMITS)
        except ImageError as error:
            yield row, error.code
            continue
        if header.format not in DECODED_FORMATS or (header.format == "PNG" and b"acTL" in data):
            yield row, "format_not_trained_on"  # an animated PNG comes out in wrong colours
        elif decoder.decode([data], params=PARAMS)[0] is None:
            yield row, "decode_failed"


def _decoder() -> Any:
    return nvimgcodec.Decoder(
        device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
        max_num_cpu_threads=1,
        backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],  # without it, every image is refused
    )
