"""Decide what is kept: samples with their measures, duplicate edges and a policy -> a decision and its reason for each.

Three pure steps. `judge` looks at each sample by itself. `resolve_duplicates` looks at the members of duplicate groups,
of which there are few. `decide` puts both together into one row for every sample that was ever read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation.duplicates.alike import Alike
from image_curation.duplicates.edges import Edges, Rows
from image_curation.duplicates.groups import choose_survivors, connected_groups, filter_edges, similarity_to_survivor
from image_curation.duplicates.rules import choose_leaders, last_leaders
from image_curation.policy import DuplicateRules, Policy, Rank

CODE_VERSION = "1"

SELECTION_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),  # kept | dropped | failed
        pa.field("reason", pa.string()),  # null when kept; the status when failed
        pa.field("detail", pa.string()),  # the sentence for people
        pa.field("group", pa.string()),  # shard/key of the one that stays; null for a sample without duplicates
        pa.field("representative_shard", pa.string()),
        pa.field("representative_key", pa.string()),
        pa.field("similarity", pa.float64()),  # cosine to the representative
        pa.field("how", pa.string()),  # exact | perceptual | semantic | chain
    ]
)


@dataclass(frozen=True)
class Rule:
    """One reason to drop a sample: where it holds, and what to say (`{value}` is the sample's own value)."""

    reason: str
    drops: Callable[[pa.Table], pa.ChunkedArray]
    sentence: str
    column: str | None = None


def judge(samples: pa.Table, policy: Policy) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    """What each sample's own measures say, by the first rule that drops it.

    Args:
        samples: n rows with the columns of `samples.read_samples`, and the sentences of those reasons that are about
            known images and that the policy uses: `blocked`, `contaminated`, `in_reference`.
        policy: the rules.

    Returns:
        (reason, detail), object [n] each: None where no rule drops the sample; of a failed one its status and error.
    """
    reasons = np.array(samples["status"].to_pylist(), dtype=object)
    details = np.array(samples["error"].to_pylist(), dtype=object)
    reasons[reasons == "ok"] = None
    for rule in _rules(policy):
        drops = pc.fill_null(rule.drops(samples), False).to_numpy().astype(bool) & (reasons == None)  # noqa: E711
        reasons[drops] = rule.reason
        for i in np.flatnonzero(drops):
            value = samples[rule.column][int(i)].as_py() if rule.column else None
            details[i] = rule.sentence.format(value=_number(value))
    return reasons, details


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _rules(policy: Policy) -> Iterator[Rule]:
    """The policy as rules, in the order in which they are asked."""
    image, caption, known = policy.image, policy.caption, policy.known
    if known.blocklists:
        yield _told("blocked")
    if known.evaluation:
        yield _told("contaminated")
    if known.reference:
        yield _told("in_reference")
    if image.damaged == "drop":
        yield Rule(
            "damaged_jpeg", lambda t: t["damaged"], "a strict JPEG decoder rejects it: parts may be grey or shifted"
        )
    if image.min_short_side is not None:
        yield _below("low_resolution", "short_side", image.min_short_side, "short side of {value} px")
    if image.max_aspect_ratio is not None:
        yield _above("aspect_ratio", "aspect_ratio", image.max_aspect_ratio, "aspect ratio of {value}")
    if image.min_exposure is not None:
        yield _below("too_dark", "exposure", image.min_exposure, "mean luminance of {value}")
    if image.max_exposure is not None:
        yield _above("too_bright", "exposure", image.max_exposure, "mean luminance of {value}")
    if image.min_contrast is not None:
        yield _below("flat", "contrast", image.min_contrast, "contrast of {value}")
    if image.min_sharpness is not None:
        yield _below("blurred", "sharpness", image.min_sharpness, "sharpness of {value}")
    if caption.required:
        yield Rule("no_caption", lambda t: pc.is_null(t["caption"]), "it has no caption")
    if caption.min_characters:
        yield _below("caption_too_short", "caption_characters", caption.min_characters, "caption of {value} characters")
    if caption.max_characters is not None:
        yield _above("caption_too_long", "caption_characters", caption.max_characters, "caption of {value} characters")
    if policy.nsfw.max is not None:
        yield _above("nsfw", "nsfw", policy.nsfw.max, "NSFW score of {value}")
        if policy.nsfw.when_null == "drop":
            yield Rule("no_nsfw_score", lambda t: pc.is_null(t["nsfw"]), "it has no NSFW score")
    if policy.aesthetic.min is not None:
        yield _below("low_aesthetic", "aesthetic", policy.aesthetic.min, "aesthetic score of {value}")
        if policy.aesthetic.when_null == "drop":
            yield Rule("no_aesthetic_score", lambda t: pc.is_null(t["aesthetic"]), "it has no aesthetic score")


def _told(reason: str) -> Rule:
    """A reason whose sentences are in the column of its name, null where it does not hold."""
    return Rule(reason, lambda t: pc.is_valid(t[reason]), "{value}", reason)


def _below(reason: str, column: str, limit: float, what: str) -> Rule:
    return Rule(reason, lambda t: pc.less(t[column], limit), f"{what}, below {limit:g}", column)


def _above(reason: str, column: str, limit: float, what: str) -> Rule:
    return Rule(reason, lambda t: pc.greater(t[column], limit), f"{what}, above {limit:g}", column)


def resolve_duplicates(
    members: pa.Table, vectors: npt.NDArray[np.float16], edges: Edges, policy: Policy, min_similarity: float
) -> pa.Table:
    """Which member of each duplicate group stays.

    The edges that pass the policy's thresholds link members to connected components, within which the policy's rule
    `groups` decides. Only members *that no other rule drops* stay or take others with them, so that an image which is
    dropped anyway takes no other with it.

    Args:
        members: m rows, one for each row that an edge names, with `shard`, `key`, `sha256`, `phash`, `textured`,
            `eligible` and the columns that `survivor` ranks by.
        vectors: fp16 [m, d].
        edges: between rows of `members`.
        policy: thresholds and the survivor rule.
        min_similarity: cosine, the policy's or what the encoder's profile recommends for `auto`.

    Returns:
        One row for each member of a group of two or more: shard, key, group, representative_shard,
        representative_key, similarity, how, is_duplicate. The group is named after the member that stays, which is the
        representative too but where `ranked` drops a member for one that went itself. Group and representative are null
        where there is nobody eligible to take the member with it.
    """
    rules = policy.duplicates
    semantic = None if rules.min_similarity is None else min_similarity
    used = filter_edges(edges, min_similarity=semantic, max_distance=rules.max_phash_distance, exact=rules.exact)
    labels = connected_groups(used, len(members))
    eligible = _bools(members["eligible"])
    alike = Alike.measure(
        vectors,
        members["sha256"],
        members["phash"].to_numpy(),
        min_similarity=semantic,
        max_distance=rules.max_phash_distance,
        exact=rules.exact,
        usable=_bools(members["textured"]),
    )
    survivor = _survivors(labels, _rank(members, rules.survivor), eligible, alike, rules)
    last = last_leaders(survivor)
    sizes = np.bincount(labels, minlength=len(members))[labels]
    sizes[last >= 0] = np.bincount(last[last >= 0], minlength=len(members))[last[last >= 0]]
    grouped = np.flatnonzero(sizes > 1)
    relations = similarity_to_survivor(survivor, alike)
    chosen = survivor[grouped]
    names = {
        f"representative_{name}": pa.array(members[name].take(np.maximum(chosen, 0)).to_pylist(), mask=chosen < 0)
        for name in ("shard", "key")
    }
    return pa.table(
        {
            "shard": members["shard"].take(grouped),
            "key": members["key"].take(grouped),
            "group": _group_names(members, last[grouped]),
            **names,
            "similarity": pa.array(relations.similarity[grouped], mask=chosen < 0),
            "how": pa.array([str(how) or None for how in relations.found[grouped]], pa.string()),
            "is_duplicate": eligible[grouped] & (chosen >= 0) & (chosen != grouped),
        }
    )


def _survivors(labels: Rows, rank: Rows, eligible: npt.NDArray[np.bool_], alike: Alike, rules: DuplicateRules) -> Rows:
    """int64 [m]: the member for which each goes by the policy's rule: itself if it stays, -1 if there is none."""
    if rules.groups != "components":
        return choose_leaders(labels, rank, eligible, alike, rules.groups)
    if rules.min_keeper_similarity is None:
        return choose_survivors(labels, rank, eligible)
    # Whoever the best of a component does not reach forms a group with those that the next best reaches, and so on
    close = replace(alike, min_similarity=rules.min_keeper_similarity, max_distance=None)
    return choose_leaders(labels, rank, eligible, close, "star")


def _group_names(members: pa.Table, last: Rows) -> pa.Array:
    names = pc.binary_join_element_wise(members["shard"], members["key"], "/").to_pylist()
    return pa.array([names[row] if row >= 0 else None for row in last], pa.string())


def _bools(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.array(column.to_pylist(), np.bool_)


def _rank(members: pa.Table, order: tuple[Rank, ...]) -> npt.NDArray[np.int64]:
    """Position of each member in the survivor rule's total order, int64 [m], 0 the best. Ties end at hash, shard, key.

    Scores are rounded first, so that differences of no meaning between machines do not decide.
    """
    names = [np.array(members[name].to_pylist(), dtype=str) for name in ("key", "shard")]
    keys = [
        *names,
        np.array(members["sha256"].to_pylist(), dtype=str),
        *(_rank_key(members, rank) for rank in reversed(order)),
    ]
    ranks = np.empty(len(members), np.int64)
    ranks[np.lexsort(keys)] = np.arange(len(members))
    return ranks


def _rank_key(members: pa.Table, rank: Rank) -> npt.NDArray[np.float64]:
    """Smaller is better; no value is worst."""
    if rank == "first":
        pairs = list(zip(members["shard"].to_pylist(), members["key"].to_pylist(), strict=True))
        place = {pair: i for i, pair in enumerate(sorted(pairs))}
        return np.array([place[pair] for pair in pairs], np.float64)
    column = {"resolution": "pixels", "bytes": "image_size", "caption": "caption_characters"}.get(rank, rank)
    values = pc.fill_null(members[column].cast(pa.float64()), -np.inf).to_numpy()
    rounded: npt.NDArray[np.float64] = np.round(values, 2 if rank == "aesthetic" else 6)
    return -rounded


def decide(
    samples: pa.Table, reasons: npt.NDArray[np.object_], details: npt.NDArray[np.object_], duplicates: pa.Table
) -> pa.Table:
    """One row of SELECTION_SCHEMA for each of n samples: kept, or dropped or failed with the reason.

    Args:
        samples: n rows with `shard`, `key`, `status`.
        reasons, details: what `judge` gave, object [n].
        duplicates: what `resolve_duplicates` gave, for this shard (rows of other shards are not looked at).
    """
    twins = {(row["shard"], row["key"]): row for row in duplicates.to_pylist()}
    identities = samples.select(["shard", "key", "status"]).to_pylist()
    rows = [
        _decision(sample, reason, detail, twins.get((sample["shard"], sample["key"])))
        for sample, reason, detail in zip(identities, reasons, details, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA)


def _decision(
    sample: dict[str, str], reason: str | None, detail: str | None, twin: dict[str, object] | None
) -> dict[str, object]:
    row: dict[str, object] = {"shard": sample["shard"], "key": sample["key"], "reason": reason, "detail": detail}
    row["decision"] = "failed" if sample["status"] != "ok" else "dropped" if reason else "kept"
    if twin is None:
        return row
    row.update(
        {name: twin[name] for name in ("group", "representative_shard", "representative_key", "similarity", "how")}
    )
    if twin["is_duplicate"] and row["decision"] == "kept":
        row.update(decision="dropped", reason=f"duplicate_{twin['how']}", detail=_duplicate_sentence(twin))
    return row


def _duplicate_sentence(twin: dict[str, object]) -> str:
    how = {
        "exact": "the same bytes as",
        "perceptual": "looks the same as",
        "semantic": "nearly the same content as",
        "chain": "linked through other duplicates to",
    }[str(twin["how"])]
    survivor = f"{twin['representative_shard']}/{twin['representative_key']}"
    return f"{how} {survivor} (cosine {twin['similarity']:.4f}), which ranks higher"


def similarity_facts(decided: pa.Table, warn_below: float | None) -> dict[str, Any]:
    """How unlike their representatives dropped duplicates are: what chains do to a selection.

    Args:
        decided: rows of SELECTION_SCHEMA, or its columns `reason` and `similarity`.
        warn_below: cosine below which to count; None counts nothing.
    """
    gone = decided.filter(pc.fill_null(pc.starts_with(decided["reason"], "duplicate_"), False))["similarity"]
    below = 0 if warn_below is None else pc.sum(pc.less(gone, warn_below)).as_py() or 0
    return {"smallest_similarity": pc.min(gone).as_py(), "duplicates_below_limit": below}
