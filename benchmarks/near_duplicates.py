"""Precision and recall of the duplicate search on labelled photos, by method and by kind of edit.

    python benchmarks/near_duplicates.py FOLDER [ENCODER ...]

FOLDER holds near-duplicates/groups.csv with the photos beside it, and encoder/*.onnx, which is used together with
`embedded` if no ENCODER is named. The methods are exact, perceptual and each encoder by itself, exact and perceptual
with one encoder ("all, onnx"), and exact and perceptual with every encoder ("all together").

A pair counts as found if both photos come into one group, be it by way of others. Precision is over the pairs found,
recall over the pairs that are labelled as one photo; "removed" is how many photos would go if one of each group stays.

Each file is an edit of one kind or unedited, and a labelled pair has the kinds of both its files: two codec versions
are a pair of "other container or codec"; a thumbnail and a cropped copy are one of "resized" and one of "cropped". So a
copy that is not found lowers the recall of its own kind and of those that it is paired with. Only two unedited files,
which are copies byte by byte, are a pair of "unedited".

Precision by kind of edit is not defined: a false pair is two different photos, and neither is an edit of the other. So
precision is over all pairs, and the false pairs are listed.
"""

import argparse
import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from image_curation.decode.decoder import ImageDecoder
from image_curation.duplicates.edges import Edges, Rows, concatenate
from image_curation.duplicates.exact import exact_edges, packed_hashes
from image_curation.duplicates.forest import spanning_forests
from image_curation.duplicates.groups import connected_groups, filter_edges
from image_curation.duplicates.perceptual import perceptual_edges
from image_curation.duplicates.semantic import semantic_edges
from image_curation.encoders import Profile, load_encoder, profile
from image_curation.policy import DuplicateRules

# Labelled as one photo in four EXIF rotations, but it is four shots of a desk, with the camera turned in between: other
# framing, other light. A copy of one of them is not what any of the others is, so their pairs are not duplicates here.
SAME_SCENE_ONLY = {"pdq:exif-rotn"}
FLAT = 0.01  # contrast below which a perceptual hash says nothing

UNEDITED = "unedited"
# Part of the relation or of the file's name -> kind of edit. No codec or EXIF version of a photo is taken for the
# original of the others; forest-high.jpg and ukbench00120.jpg are what the edits of these two were made from.
# forest-cropped.jpg has the pixels of forest-high.jpg, but for 0.4 of 255: that it is found says nothing about crops.
EDITS = {
    "other container/codec": "other container or codec",
    "_Landscape_": "EXIF orientation",
    "-thumb.": "resized",
    "_resize.": "resized",
    "-cropped.": "cropped",
    "-copyright.": "text overlay",
    "-low.": "quality",
    "_hflip.": "mirrored",
    "_rotation.": "rotated",
}


@dataclass(frozen=True)
class Labelled:
    """n photos: names, kinds of edit and, as int64 [n], equal numbers for the same photo.

    `groups` maps a method to int64 [n], equal numbers for what it took for the same photo. `thresholds` says them.
    """

    names: list[str]
    edits: list[str]
    truth: Rows
    groups: dict[str, Rows]
    thresholds: str


@dataclass(frozen=True)
class Score:
    """How one method did, with the names of the pairs that it missed and of those that it should not have found."""

    method: str
    pairs: int
    precision: float
    recall: float
    removed: int
    missed: list[tuple[str, str]]
    false: list[tuple[str, str]]


def kind_of_edit(file: str, relation: str) -> str:
    """The kind of edit of a row of groups.csv."""
    return next((kind for part, kind in EDITS.items() if part in relation or part in file), UNEDITED)


def kinds_of_pair(a: str, b: str) -> set[str]:
    """The kinds of a labelled pair, from those of its files."""
    return {a, b} - {UNEDITED} or {UNEDITED}


def search(folder: Path, *encoders: str) -> Labelled:
    """Decode the photos once and group them by every method, at the thresholds that a policy has by default."""
    with (folder / "near-duplicates" / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [(folder / "near-duplicates" / row["file"]).read_bytes() for row in rows]
    photos = [f"{row['group']}/{i}" if row["group"] in SAME_SCENE_ONLY else row["group"] for i, row in enumerate(rows)]
    profiles = {name.partition(":")[0]: profile(name) for name in encoders}
    if len(profiles) < len(encoders) or len({chosen.size for chosen in profiles.values()}) != 1:
        raise SystemExit(f"encoders should be of different kinds and of one size, to decode once; got {encoders}")
    cosines = [f"{name} cosine from {chosen.duplicate_similarity:g}" for name, chosen in profiles.items()]
    return Labelled(
        [row["file"] for row in rows],
        [kind_of_edit(row["file"], row["relation"]) for row in rows],
        np.unique(photos, return_inverse=True)[1].astype(np.int64),
        {method: connected_groups(edges, len(rows)) for method, edges in _accepted(images, profiles).items()},
        ", ".join([f"perceptual at most {DuplicateRules().max_phash_distance} bits", *cosines]),
    )


def _accepted(images: list[bytes], profiles: dict[str, Profile]) -> dict[str, Edges]:
    """The edges that each method goes by, cut from one forest an encoder."""
    with ImageDecoder(next(iter(profiles.values())).size) as decoder:
        decoded = decoder.decode(images)
    if decoded.errors:
        raise SystemExit(f"could not decode: {decoded.errors}")
    hashes, textured = decoded.measures["phash"], decoded.measures["contrast"] >= FLAT
    distance, cosine = DuplicateRules().max_phash_distance, {x: profiles[x].duplicate_similarity for x in profiles}
    exact = exact_edges(packed_hashes([hashlib.sha256(image).hexdigest() for image in images]))
    perceptual = perceptual_edges(hashes, distance or 0, usable=textured)
    forests = {}
    for name, chosen in profiles.items():
        semantic = semantic_edges(load_encoder(chosen).encode(decoded.pixels), cosine[name])
        forests[name] = spanning_forests(concatenate([exact, perceptual, semantic]), len(images))
    first = next(iter(forests.values()))  # exact and perceptual edges are the same in each
    all_with = {f"all, {name}": filter_edges(forest, cosine[name], distance) for name, forest in forests.items()}
    return {
        "exact": filter_edges(first, None, None),
        "perceptual": filter_edges(first, None, distance, exact=False),
        **{name: filter_edges(forest, cosine[name], None, exact=False) for name, forest in forests.items()},
        **(all_with if len(all_with) > 1 else {}),
        "all together": concatenate([*all_with.values()]),
    }


def scores(labelled: Labelled) -> list[Score]:
    """One score a method, over all pairs."""
    return [_score(method, labelled) for method in labelled.groups]


def _score(method: str, labelled: Labelled) -> Score:
    n, labels = len(labelled.names), labelled.groups[method]
    i, j = np.triu_indices(n, 1)
    found, true = labels[i] == labels[j], labelled.truth[i] == labelled.truth[j]
    right = int((found & true).sum())

    def names(which: npt.NDArray[np.bool_]) -> list[tuple[str, str]]:
        return [(labelled.names[a], labelled.names[b]) for a, b in zip(i[which], j[which], strict=True)]

    precision, recall, removed = right / max(1, found.sum()), right / int(true.sum()), n - len(np.unique(labels))
    return Score(method, int(found.sum()), precision, recall, removed, names(true & ~found), names(found & ~true))


def recalls(labelled: Labelled) -> dict[str, tuple[int, list[float]]]:
    """For each kind of edit the number of labelled pairs that have it, and each method's recall over these."""
    i, j = np.nonzero(np.triu(labelled.truth[:, None] == labelled.truth, 1))
    of_pairs = [kinds_of_pair(labelled.edits[a], labelled.edits[b]) for a, b in zip(i, j, strict=True)]
    found = np.array([labels[i] == labels[j] for labels in labelled.groups.values()])  # bool [methods, pairs]
    table = {}
    for kind in [*dict.fromkeys(EDITS.values()), UNEDITED]:
        chosen = np.array([kind in kinds for kinds in of_pairs])
        if chosen.any():
            table[kind] = int(chosen.sum()), found[:, chosen].mean(axis=1).tolist()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("encoder", nargs="*")
    arguments = parser.parse_args()
    onnx = sorted((arguments.folder / "encoder").glob("*.onnx"))
    labelled = search(arguments.folder, *(arguments.encoder or [f"onnx:{onnx[0]}", "embedded"]))
    print_scores(labelled, scores(labelled))
    print_recalls(labelled)


def print_scores(labelled: Labelled, results: list[Score]) -> None:
    n, photos = len(labelled.names), len(np.unique(labelled.truth))
    print(f"{n} files of {photos} photos: {n - photos} should be removed")
    print(f"missed by all together, {len(results[-1].missed)} pairs:")
    for a, b in results[-1].missed:
        print(f"  {a}  {b}")
    print(f"false pairs of any method: {sum(len(score.false) for score in results) or 'none'}")
    for score in results:
        for a, b in score.false:
            print(f"  {score.method}: {a}  {b}")
    print(f"\n{labelled.thresholds}")
    print(f"{'over all pairs':<26}{'pairs':>6}{'precision':>11}{'recall':>9}{'removed':>9}")
    for score in results:
        print(f"{score.method:<26}{score.pairs:>6}{score.precision:>11.4f}{score.recall:>9.4f}{score.removed:>9}")


def print_recalls(labelled: Labelled) -> None:
    methods = list(labelled.groups)
    print(f"\n{'recall by kind of edit':<26}{'pairs':>6}" + "".join(f"  {method:>8}" for method in methods))
    for kind, (pairs, row) in recalls(labelled).items():
        cells = [f"  {recall:>{max(8, len(method))}.4f}" for method, recall in zip(methods, row, strict=True)]
        print(f"{kind:<26}{pairs:>6}{''.join(cells)}")


if __name__ == "__main__":
    main()
