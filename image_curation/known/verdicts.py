"""Matches with known sets and a policy -> the sentence of each sample that must go because of them."""

from collections.abc import Sequence
from typing import Any

from image_curation.duplicates.edges import HASH_BITS, Kind

Match = dict[str, Any]  # set, how, key, similarity


def verdicts(
    matches: Sequence[Sequence[Match]],
    sets: Sequence[str],
    role: str,
    min_similarity: float | None,
    max_phash_distance: int | None,
) -> list[str | None]:
    """For each sample what it matches in the sets of one role; None where it matches nothing.

    Args:
        matches: of each sample, by set and then by kind, the strongest first.
        sets: names of the sets.
        role: what they are, as people are told.
        min_similarity: lowest cosine; None: vectors are not used.
        max_phash_distance: bits of 64 that may differ; None: perceptual hashes are not used.
    """
    lowest = {
        Kind.EXACT: 1.0,
        Kind.PERCEPTUAL: 2.0 if max_phash_distance is None else 1 - max_phash_distance / HASH_BITS,
        Kind.SEMANTIC: 2.0 if min_similarity is None else min_similarity,
    }

    def verdict(found: Sequence[Match]) -> str | None:
        return next(
            (
                f"{_words(match)} in the {role} {match['set']}"
                for match in found
                if match["set"] in sets and match["similarity"] >= lowest[Kind[match["how"].upper()]]
            ),
            None,
        )

    return [verdict(found) for found in matches]


def _words(match: Match) -> str:
    """What is told of a match: its kind, the image of the set, and how near it is."""
    if match["how"] == "exact":
        return f"the same bytes as {match['key']}"
    if match["how"] == "perceptual":
        bits = round((1 - match["similarity"]) * HASH_BITS)
        return f"looks the same as {match['key']} ({bits} of {HASH_BITS} bits differ)"
    return f"nearly the same content as {match['key']} (cosine {match['similarity']:.4f})"
