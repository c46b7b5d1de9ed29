"""Artifacts -> PNGs for the metadata of one materialization."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_curation.artifacts import read_artifact, read_table
from image_curation.heads import HeadKind
from image_curation.project import Project
from image_curation.report.contact_sheet import contact_sheet_png
from image_curation.report.data import Histogram
from image_curation.report.figures import histogram_png
from image_curation.report.measures import measure_histogram
from image_curation.report.thumbnails import thumbnails

_PLACE = ["shard", "key", "image_offset", "image_size", "sha256"]
_SHEET = 24


def shard_sheet(project: Project, shard: str) -> bytes:
    """A contact sheet of a shard's good samples."""
    index = read_table(project.index_url(shard), _PLACE)
    status = read_table(project.embeddings_url(shard), ["status"])["status"]
    return _sheet(project, index.filter(pc.equal(status, "ok")), [shard])


def kept_sheet(project: Project, shards: Sequence[str]) -> bytes:
    """A contact sheet of what all shards together keep."""
    kept = []
    for shard in shards:
        decisions = read_table(project.selection_url(shard), ["decision"])["decision"]
        kept.append(read_table(project.index_url(shard), _PLACE).filter(pc.equal(decisions, "kept")))
    return _sheet(project, pa.concat_tables(kept), shards)


def score_histogram(project: Project, score: HeadKind, shard: str) -> bytes:
    """How one shard's scores spread, with the policy's threshold."""
    url = project.scores_url(score, shard)
    note = read_artifact(url).facts["null_reason"]
    return histogram_png(measure_histogram(project.policy, score, read_table(url, [score])[score], note))


def similarity_histogram(project: Project) -> bytes:
    """The cosines of the pairs found, with the threshold that the policy chooses."""
    edges = read_table(project.edges_url, ["similarity", "kind"])
    cosines = edges.filter(pc.equal(edges["kind"], "semantic"))["similarity"].to_numpy().astype(np.float64)
    return histogram_png(Histogram("similarity", "Cosine of pairs", cosines, project.min_similarity, "below"))


def _sheet(project: Project, samples: pa.Table, shards: Sequence[str]) -> bytes:
    """In order of the content hash, which has nothing to do with place or subject."""
    shown = samples.sort_by("sha256").slice(0, _SHEET)
    urls = {shard: read_artifact(project.index_url(shard)).facts["url"] for shard in shards}
    return contact_sheet_png(thumbnails(project, shown, urls), labels=shown["key"].to_pylist(), total=len(samples))
