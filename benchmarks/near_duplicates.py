"""Precision and recall of the duplicate search on labelled photos, each kind of edge by itself and all together.

    python benchmarks/near_duplicates.py FOLDER [ENCODER]

FOLDER holds near-duplicates/groups.csv with the photos beside it, and encoder/*.onnx, which is used if no ENCODER is
named. A pair counts as found if both photos come into one group. Precision is over the pairs found, recall over the
pairs that are labelled as one photo; "removed" is how many photos would go if one of each group stays.
"""

import argparse
import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from image_curation.decode.decoder import ImageDecoder
from image_curation.duplicates.edges import Edges, concatenate
from image_curation.duplicates.exact import exact_edges
from image_curation.duplicates.forest import spanning_forests
from image_curation.duplicates.groups import connected_groups, filter_edges
from image_curation.duplicates.perceptual import perceptual_edges
from image_curation.duplicates.semantic import semantic_edges
from image_curation.encoders import load_encoder, profile
from image_curation.policy import DuplicateRules

# Labelled as one photo in four EXIF rotations, but it is four shots of a desk, with the camera turned in between: other
# framing, other light. A copy of one of them is not what any of the others is, so their pairs are not duplicates here.
SAME_SCENE_ONLY = {"pdq:exif-rotn"}
FLAT = 0.01  # contrast below which a perceptual hash says nothing


@dataclass(frozen=True)
class Labelled:
    """n photos: their names and, as int64 [n], equal numbers for the same photo."""

    names: list[str]
    truth: npt.NDArray[np.int64]
    edges: Edges
    similarity: float


@dataclass(frozen=True)
class Score:
    """How one method did. `missed` holds the names of the pairs that it did not find."""

    method: str
    pairs: int
    precision: float
    recall: float
    removed: int
    missed: list[tuple[str, str]]


def search(folder: Path, encoder: str) -> Labelled:
    """Decode and embed the photos and find all pairs of all kinds at the thresholds that a policy has by default."""
    with (folder / "near-duplicates" / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [(folder / "near-duplicates" / row["file"]).read_bytes() for row in rows]
    names = [f"{row['group']}/{i}" if row["group"] in SAME_SCENE_ONLY else row["group"] for i, row in enumerate(rows)]
    chosen = profile(encoder)
    with ImageDecoder(chosen.size) as decoder:
        decoded = decoder.decode(images)
    if decoded.errors:
        raise SystemExit(f"could not decode: {decoded.errors}")
    hashes, textured = decoded.measures["phash"], decoded.measures["contrast"] >= FLAT
    edges = concatenate(
        [
            exact_edges([hashlib.sha256(image).hexdigest() for image in images]),
            perceptual_edges(hashes, DuplicateRules().max_phash_distance or 0, usable=textured),
            semantic_edges(load_encoder(chosen).encode(decoded.pixels), chosen.duplicate_similarity),
        ]
    )
    truth = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return Labelled(
        [row["file"] for row in rows], truth, spanning_forests(edges, len(rows)), chosen.duplicate_similarity
    )


def scores(labelled: Labelled) -> list[Score]:
    """One score a method."""
    distance, similarity = DuplicateRules().max_phash_distance, labelled.similarity
    methods: dict[str, tuple[float | None, int | None, bool]] = {
        "exact": (None, None, True),
        f"perceptual, at most {distance} bits": (None, distance, False),
        f"semantic, cosine from {similarity:g}": (similarity, None, False),
        "all": (similarity, distance, True),
    }
    return [_score(method, labelled, *thresholds) for method, thresholds in methods.items()]


def _score(method: str, labelled: Labelled, similarity: float | None, distance: int | None, exact: bool) -> Score:
    n = len(labelled.names)
    labels = connected_groups(filter_edges(labelled.edges, similarity, distance, exact), n)
    i, j = np.triu_indices(n, 1)
    found, true = labels[i] == labels[j], labelled.truth[i] == labelled.truth[j]
    right = int((found & true).sum())
    missed = [(labelled.names[a], labelled.names[b]) for a, b in zip(i[true & ~found], j[true & ~found], strict=True)]
    removed = n - len(np.unique(labels))
    return Score(method, int(found.sum()), right / max(1, found.sum()), right / int(true.sum()), removed, missed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("encoder", nargs="?")
    arguments = parser.parse_args()
    onnx = sorted((arguments.folder / "encoder").glob("*.onnx"))
    labelled = search(arguments.folder, arguments.encoder or f"onnx:{onnx[0]}")
    print_scores(labelled, scores(labelled))


def print_scores(labelled: Labelled, results: list[Score]) -> None:
    n, groups = len(labelled.names), len(np.unique(labelled.truth))
    print(f"{n} files of {groups} photos: {n - groups} should be removed")
    print(f"{'method':<28}{'pairs':>7}{'precision':>11}{'recall':>9}{'removed':>9}")
    for score in results:
        print(f"{score.method:<28}{score.pairs:>7}{score.precision:>11.4f}{score.recall:>9.4f}{score.removed:>9}")
    print(f"missed by all together, {len(results[-1].missed)} pairs:")
    for a, b in results[-1].missed:
        print(f"  {a}  {b}")


if __name__ == "__main__":
    main()
