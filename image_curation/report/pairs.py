"""Pairs next to the duplicate threshold -> their pictures, side by side."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_curation.artifacts import read_artifact, read_table
from image_curation.preview import Pairs, Preview
from image_curation.project import Project
from image_curation.report.data import PairSheet, Thumbs
from image_curation.report.thumbnails import thumbnails

_PLACE = pa.schema({"shard": pa.string(), "key": pa.string(), "image_offset": pa.int64(), "image_size": pa.int64()})


def pair_sheets(project: Project, preview: Preview) -> tuple[PairSheet, PairSheet]:
    """The pairs just above the policy's cosine, and those just below."""
    cosine = preview.chosen.min_similarity
    if cosine is None:
        titles = "Above the threshold", "No threshold: the most alike"
    else:
        titles = f"Just above {cosine:g}: taken for duplicates", f"Just below {cosine:g}: not taken for duplicates"
    above, below = (
        _sheet(project, title, pairs) for title, pairs in zip(titles, (preview.above, preview.below), strict=True)
    )
    return above, below


def _sheet(project: Project, title: str, pairs: Pairs) -> PairSheet:
    ends = pa.concat_tables([pairs.left, pairs.right])
    names = [f"{row['shard']}/{row['key']}" for row in ends.to_pylist()]
    n = len(pairs.similarity)
    pictures = _pictures(project, ends)
    return PairSheet(
        title,
        np.stack([pictures[:n], pictures[n:]], axis=1),
        list(zip(names[:n], names[n:], strict=True)),
        pairs.similarity,
        pairs.total,
    )


def _pictures(project: Project, ends: pa.Table) -> Thumbs:
    """Thumbnails of the named samples, uint8 [m, side, side, 3]."""
    places: dict[tuple[str, str], dict[str, Any]] = {}
    urls = {}
    for shard in sorted(set(ends["shard"].to_pylist())):
        keys = ends.filter(pc.equal(ends["shard"], shard))["key"].combine_chunks()
        index = read_table(project.index_url(shard), _PLACE.names)
        places |= {(shard, row["key"]): row for row in index.filter(pc.is_in(index["key"], keys)).to_pylist()}
        urls[shard] = read_artifact(project.index_url(shard)).facts["url"]
    found = [places[row["shard"], row["key"]] for row in ends.to_pylist()]
    return thumbnails(project, pa.Table.from_pylist(found, schema=_PLACE), urls)
