"""A sample's key -> why it was kept or dropped: its measures, its group, and the rule that decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from image_curation.artifacts import read_table
from image_curation.errors import ConfigError
from image_curation.project import Project
from image_curation.samples import read_samples

_MEASURES = (
    "aesthetic",
    "nsfw",
    "width",
    "height",
    "format",
    "sharpness",
    "exposure",
    "contrast",
    "damaged",
    "caption",
    "sha256",
)


@dataclass(frozen=True)
class Explanation:
    """Why one sample has its fate."""

    shard: str
    key: str
    decision: str
    sentence: str
    facts: Mapping[str, str]
    group: list[str]
    """The members of its duplicate group, one a line, the representative first."""


def explain(project: Project, name: str) -> list[Explanation]:
    """Explain every sample whose key, or shard and key joined by a slash, is `name`.

    Raises:
        ConfigError: there is no such sample.
    """
    found = []
    for shard in project.selected_shards():
        table = read_table(project.selection_url(shard))
        for i, key in enumerate(table["key"].to_pylist()):
            if name in (key, f"{shard}/{key}"):
                found.append(_explanation(project, shard, table.slice(i, 1).to_pylist()[0]))
    if not found:
        raise ConfigError(
            f"no sample {name!r} below {project.settings.root}. Give its key, or SHARD/KEY; "
            "`image-curation inspect` lists the keys of a tar."
        )
    return found


def _explanation(project: Project, shard: str, row: dict[str, Any]) -> Explanation:
    samples = read_samples(project, shard)
    sample = samples.filter(pc.equal(samples["key"], row["key"])).to_pylist()[0]
    sentence = row["detail"] or "it passes every rule of the policy"
    if row["reason"] and row["decision"] == "dropped":
        sentence = f"{row['reason'].replace('_', ' ')}: {sentence}"
    facts = {name: _text(sample[name]) for name in _MEASURES}
    return Explanation(shard, row["key"], row["decision"], sentence, facts, _group(project, row["group"]))


def _text(value: object) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _group(project: Project, group: str | None) -> list[str]:
    if group is None:
        return []
    members = []
    for shard in project.selected_shards():
        table = read_table(project.selection_url(shard), ["shard", "key", "decision", "group", "similarity", "how"])
        members += table.filter(pc.equal(table["group"], group)).to_pylist()
    members.sort(key=lambda row: (f"{row['shard']}/{row['key']}" != group, -(row["similarity"] or 0)))
    return [f"duplicate group {group}, {len(members)} images:"] + [
        f"  {row['decision']:<8}{row['shard']}/{row['key']}"
        + (f"  cosine {row['similarity']:.4f}, {row['how']}" if row["how"] else "  represents the group")
        for row in members
    ]
