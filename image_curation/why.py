"""A sample's key -> why it was kept or dropped: its measures, its group, what made that, and the rule that decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from image_curation.artifacts import read_artifact, read_table
from image_curation.duplicates.chain import shortest_chain
from image_curation.duplicates.edges import Edges
from image_curation.duplicates.groups import filter_edges
from image_curation.errors import ConfigError
from image_curation.project import Project
from image_curation.samples import read_samples
from image_curation.steps.duplicate_groups import read_duplicates

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
    chain: list[str]
    """The pairs that lead from it to its representative, one a line; none where it has no other representative."""
    lineage: Mapping[str, str]
    """What made the group: the policy's thresholds and rule, and how duplicates were searched; empty without one."""


def explain(project: Project, name: str) -> list[Explanation]:
    """Explain every sample whose key, or shard and key joined by a slash, is `name`.

    Raises:
        ConfigError: there is no such sample.
    """
    found, duplicates = [], _Duplicates(project)
    for shard in project.selected_shards():
        table = read_table(project.selection_url(shard))
        for i, key in enumerate(table["key"].to_pylist()):
            if name in (key, f"{shard}/{key}"):
                found.append(_explanation(project, shard, duplicates, table.slice(i, 1).to_pylist()[0]))
    if not found:
        raise ConfigError(
            f"no sample {name!r} below {project.settings.root}. Give its key, or SHARD/KEY; "
            "`image-curation inspect` lists the keys of a tar."
        )
    return found


@dataclass(frozen=True)
class _Duplicates:
    """The pairs that were found, read when they are first asked for."""

    project: Project

    @cached_property
    def rows(self) -> dict[str, int]:
        """SHARD/KEY -> row, of each member, in their order."""
        members = self._found[0]
        identities = zip(members["shard"].to_pylist(), members["key"].to_pylist(), strict=True)
        return {f"{shard}/{key}": row for row, (shard, key) in enumerate(identities)}

    @cached_property
    def edges(self) -> Edges:
        """The pairs between samples that the selection looked at: shards may be gone since the search."""
        members, edges = self._found
        here = pc.is_in(members["shard"], pa.array(self.project.selected_shards())).to_numpy()
        return edges.take(here[edges.a] & here[edges.b])

    @cached_property
    def _found(self) -> tuple[pa.Table, Edges]:
        return read_duplicates(self.project)


def _explanation(project: Project, shard: str, duplicates: _Duplicates, row: dict[str, Any]) -> Explanation:
    samples = read_samples(project, shard)
    sample = samples.filter(pc.equal(samples["key"], row["key"])).to_pylist()[0]
    sentence = row["detail"] or "it passes every rule of the policy"
    if row["reason"] and row["decision"] == "dropped":
        sentence = f"{row['reason'].replace('_', ' ')}: {sentence}"
    facts = {name: _text(sample[name]) for name in _MEASURES}
    group, chain, lineage = _group(project, row["group"]), [], {}
    if group:
        rules = _rules(project, shard)
        chain = _chain(duplicates, f"{shard}/{row['key']}", row["group"], rules)
        lineage = _lineage(project, rules)
    return Explanation(shard, row["key"], row["decision"], sentence, facts, group, chain, lineage)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " > ".join(map(_text, value))
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


def _chain(duplicates: _Duplicates, name: str, representative: str, rules: dict[str, Any]) -> list[str]:
    """The pairs that lead from one to the other and pass the thresholds, one a line."""
    if name == representative:
        return []
    rows, edges = duplicates.rows, duplicates.edges
    used = filter_edges(edges, rules["min_similarity"], rules["max_phash_distance"], rules["exact"])
    chain = None
    if name in rows and representative in rows:
        chain = shortest_chain(used, len(rows), rows[name], rows[representative])
    if chain is None:
        return ["none: duplicates were searched again since. Run `image-curation curate` again."]
    names = list(rows)
    return [name, *(f"  -{link}-> {names[link.row]}" for link in chain)]


def _rules(project: Project, shard: str) -> dict[str, Any]:
    """What decided about duplicates, by the selection's own certificate: the policy may have been edited since."""
    settings = read_artifact(project.selection_url(shard)).certificate.settings
    rules: dict[str, Any] = settings["policy"]["duplicates"]
    return rules if rules["min_similarity"] is None else rules | {"min_similarity": settings["min_similarity"]}


def _lineage(project: Project, rules: dict[str, Any]) -> dict[str, str]:
    """The rules, and how duplicates were searched: certificate and facts as they are, whatever is among them."""
    searched = read_artifact(project.members_url)
    certificate = searched.certificate
    return {
        "rules": _text(rules),
        "search": _text(certificate.settings),
        "made from": f"{len(certificate.inputs)} shards by code version {certificate.code_version}",
        "content": searched.content,
    } | {name: _text(value) for name, value in searched.facts.items()}
