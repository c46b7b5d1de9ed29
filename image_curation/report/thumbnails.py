"""Samples -> small pictures of them, read from their tars, for contact sheets."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_curation import storage
from image_curation.project import Project

if TYPE_CHECKING:
    from image_curation.decode.decoder import ImageDecoder

SIDE = 128


def thumbnails(project: Project, samples: pa.Table, urls: dict[str, str]) -> npt.NDArray[np.uint8]:
    """Centre crops of the images of n samples, uint8 [n, 128, 128, 3]; grey where one cannot be decoded.

    Args:
        samples: n rows with `shard`, `image_offset`, `image_size`.
        urls: the tar of each shard.
    """
    places = samples.select(["shard", "image_offset", "image_size"]).to_pylist()
    pictures = np.full((len(places), SIDE, SIDE, 3), 128, np.uint8)
    for shard in sorted({place["shard"] for place in places}):
        rows = [i for i, place in enumerate(places) if place["shard"] == shard and place["image_size"]]
        ranges = [(places[i]["image_offset"], places[i]["image_size"]) for i in rows]
        decoded = _decoder(project).decode(storage.read_ranges(urls[shard], ranges))
        pictures[np.array(rows, np.int64)[decoded.rows]] = decoded.pixels
    return pictures


@lru_cache(maxsize=1)
def _decoder(project: Project) -> "ImageDecoder":
    from image_curation.decode.decoder import ImageDecoder

    return ImageDecoder(SIDE, "cpu", limits=project.settings.decode)
