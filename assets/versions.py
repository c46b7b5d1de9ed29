"""Code versions, settings and policy -> the version of each asset, which changes with anything that it is made by.

Dagster calls an asset stale when its version is no longer the one that it was materialized under. A version takes in
those of the assets above, so that a new policy makes `selection` and what follows stale, a new encoder everything from
`embeddings` on, and nothing else.
"""

from dataclasses import asdict
from typing import Any

from image_curation import duplicates, embedding
from image_curation import selection as decisions
from image_curation.artifacts import digest
from image_curation.errors import CurationError
from image_curation.project import Project
from image_curation.release import plan
from image_curation.shards import index
from image_curation.steps import known_matches, scores
from resources.curation import Curation

SCORED = ("aesthetic_scores", "nsfw_scores", "known_matches")
SAMPLES = ("shard_index", "embeddings", *SCORED)
"""Assets that are made of each shard by itself, in the order of the data's way."""

PARENTS: dict[str, tuple[str, ...]] = {
    "shard_index": (),
    "embeddings": ("shard_index",),
    "aesthetic_scores": ("embeddings",),
    "nsfw_scores": ("embeddings",),
    "known_matches": ("embeddings",),
    "duplicate_groups": ("embeddings",),
    "selection": (*SCORED, "duplicate_groups"),
    "curated_shards": ("selection",),
    "curation_report": ("curated_shards",),
}
CODE = {
    "shard_index": index.CODE_VERSION,
    "embeddings": embedding.CODE_VERSION,
    "aesthetic_scores": scores.CODE_VERSION,
    "nsfw_scores": scores.CODE_VERSION,
    "known_matches": known_matches.CODE_VERSION,
    "duplicate_groups": duplicates.CODE_VERSION,
    "selection": decisions.CODE_VERSION,
    "curated_shards": plan.LAYOUT,
    "curation_report": "1",  # of the page: raise it when the same artifacts are shown in another way
}


def versions(project: Project | None) -> dict[str, str]:
    """The version of each asset under this project; without one, as if nothing were set.

    Raises:
        ConfigError: a blocklist that the policy names is gone.
    """
    settings = _settings(project) if project else {}
    found: dict[str, str] = {}
    for name, parents in PARENTS.items():
        made_by = digest([CODE[name], settings.get(name), [found[parent] for parent in parents]])
        found[name] = f"{CODE[name]}-{made_by[:12]}"
    return found


def _settings(project: Project) -> dict[str, Any]:
    """What is set that an asset's content depends on. The device is no part: it may be another one where runs are."""
    settings, policy = project.settings, project.policy
    return {
        "shard_index": settings.decode.model_dump(),
        "embeddings": [asdict(project.profile), settings.weights],
        "aesthetic_scores": settings.heads,
        "nsfw_scores": settings.heads,
        "known_matches": settings.known_sets,
        "duplicate_groups": settings.duplicates.model_dump(),
        "selection": [policy.model_dump(mode="json", exclude={"release"}), policy.blocklist_contents()],
        "curated_shards": policy.release.model_dump(mode="json"),
    }


def versions_when_loaded() -> dict[str, str]:
    """The versions under the environment's settings. The graph loads without settings, or with wrong ones, as well."""
    try:
        return versions(Curation().project())
    except CurationError:
        return versions(None)


LOADED = versions_when_loaded()
