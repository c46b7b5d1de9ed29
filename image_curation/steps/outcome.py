"""What a step did, and the rule that all steps follow: what has a matching certificate is reused, else made anew."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from image_curation.artifacts import Artifact, Certificate, fresh, write_table

Made = tuple[pa.Table, dict[str, Any]]  # the rows, and facts about their making


@dataclass(frozen=True)
class Outcome:
    """What a step did: the artifact, whether it was there already, and the seconds it took."""

    artifact: Artifact
    reused: bool
    seconds: float


def reuse_or_make(url: str, certificate: Certificate, make: Callable[[], Made]) -> Outcome:
    """Reuse the artifact that this certificate describes, or make and write it."""
    start = time.perf_counter()
    artifact = fresh(url, certificate)
    if artifact:
        return Outcome(artifact, True, time.perf_counter() - start)
    table, facts = make()
    return Outcome(write_table(url, table, certificate, facts), False, time.perf_counter() - start)


def count(values: Iterable[Any]) -> dict[str, int]:
    """How often each name occurs, by name; None is left out."""
    counts: dict[str, int] = {}
    for value in values:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items()))
