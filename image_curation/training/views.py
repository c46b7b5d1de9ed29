"""A dataset in tars -> index files that show DALI's webdataset reader its images, and nothing else, in mixed order.

A release carries such index files, with every member of every sample. A view holds the images of the dataset alone,
each named for its row number, which comes back from the reader as the source of the sample. So whatever is trained on,
left out or held out is said by an index, and no tar is written again.

Samples of one class lie side by side in many a release, and the reader shuffles only what its buffer holds. So a view
for training cuts the rows of each tar, in random order, into slices, and mixes the slices of all tars.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from image_curation.training.dataset import Dataset, Ints

FIELD = "image"
DIGITS = 10  # of a row number as the name of its sample
_SLICE_ROWS, _MOST_SLICES = 64, 4096


def write_view(dataset: Dataset, folder: Path, seed: int | None) -> tuple[list[str], list[str]]:
    """Write index files into `folder`; the paths of the tars, one for each of them, and of the index files.

    `seed` decides the mixed order; with None the rows are in their own order, one index a tar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(_by_file(dataset, np.arange(len(dataset)))) if seed is None else _slices(dataset, seed)
    paths, indices = [], []
    for number, rows in enumerate(parts):
        index = folder / f"{number:06d}.idx"
        index.write_text(_index(dataset, rows))
        indices.append(str(index))
        paths.append(dataset.files[dataset.file[rows[0]]])
    return paths, indices


def _index(dataset: Dataset, rows: Ints) -> str:
    """The reader's format v1.2: one line a sample, `field offset size name` of each of its members, here one."""
    lines = (f"{FIELD} {dataset.offset[row]} {dataset.size[row]} {row:0{DIGITS}d}\n" for row in rows)
    return f"v1.2 {len(rows)}\n" + "".join(lines)


def _slices(dataset: Dataset, seed: int) -> list[Ints]:
    chance = np.random.default_rng(seed)
    size = max(_SLICE_ROWS, -(-len(dataset) // _MOST_SLICES))
    slices = []
    for rows in _by_file(dataset, chance.permutation(len(dataset))):
        slices += np.array_split(rows, -(-len(rows) // size))
    return [slices[i] for i in chance.permutation(len(slices))]


def _by_file(dataset: Dataset, rows: Ints) -> Iterator[Ints]:
    """The rows of each file, in the order given."""
    ordered = rows[np.argsort(dataset.file[rows], kind="stable")]
    yield from np.split(ordered, np.flatnonzero(np.diff(dataset.file[ordered])) + 1)
