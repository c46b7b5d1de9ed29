"""Decisions by hand: every rule on one sample, every survivor rule on a few vectors, and the sentences."""

import math

import numpy as np
import pyarrow as pa
import pytest

from image_curation.duplicates.edges import Edges, Kind, concatenate
from image_curation.policy import DuplicateRules, Policy
from image_curation.selection import SELECTION_SCHEMA, decide, judge, resolve_duplicates, similarity_facts

# A sample that every rule of STRICT passes.
GOOD = {
    "status": "ok",
    "error": None,
    "damaged": False,
    "short_side": 256,
    "aspect_ratio": 1.5,
    "exposure": 0.5,
    "contrast": 0.25,
    "sharpness": 100.0,
    "caption": "ten chars.",
    "caption_characters": 10,
    "nsfw": 0.125,
    "aesthetic": 5.0,
}
SCHEMA = pa.schema(
    [
        ("status", pa.string()),
        ("error", pa.string()),
        ("damaged", pa.bool_()),
        ("short_side", pa.int32()),
        ("aspect_ratio", pa.float64()),
        ("exposure", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("caption", pa.string()),
        ("caption_characters", pa.int32()),
        ("nsfw", pa.float32()),
        ("aesthetic", pa.float32()),
    ]
)
STRICT = {
    "image": {
        "min_short_side": 128,
        "max_aspect_ratio": 2.0,
        "min_sharpness": 50.0,
        "min_exposure": 0.25,
        "max_exposure": 0.75,
        "min_contrast": 0.125,
        "damaged": "drop",
    },
    "caption": {"required": True, "min_characters": 5, "max_characters": 20},
    "aesthetic": {"min": 4.5, "when_null": "drop"},
    "nsfw": {"max": 0.5, "when_null": "drop"},
}


def policy(**sections) -> Policy:
    """STRICT with some keys changed."""
    return Policy.model_validate({name: {**rules, **sections.get(name, {})} for name, rules in STRICT.items()})


def fates(samples: list[dict], rules: Policy) -> list[tuple[str | None, str | None]]:
    table = pa.Table.from_pylist([GOOD | sample for sample in samples], schema=SCHEMA)
    return list(zip(*(column.tolist() for column in judge(table, rules)), strict=True))


def fate(sample: dict, rules: Policy) -> tuple[str | None, str | None]:
    return fates([sample], rules)[0]


# measure, a value beyond the limit, the limit itself, reason, the sentence
LIMITS = [
    ({"short_side": 127}, {"short_side": 128}, "low_resolution", "short side of 127 px, below 128"),
    ({"aspect_ratio": 2.03}, {"aspect_ratio": 2.0}, "aspect_ratio", "aspect ratio of 2.03, above 2"),
    ({"exposure": 0.2}, {"exposure": 0.25}, "too_dark", "mean luminance of 0.2, below 0.25"),
    ({"exposure": 0.8}, {"exposure": 0.75}, "too_bright", "mean luminance of 0.8, above 0.75"),
    ({"contrast": 0.1}, {"contrast": 0.125}, "flat", "contrast of 0.1, below 0.125"),
    ({"sharpness": 49.9}, {"sharpness": 50.0}, "blurred", "sharpness of 49.9, below 50"),
    ({"caption_characters": 4}, {"caption_characters": 5}, "caption_too_short", "caption of 4 characters, below 5"),
    ({"caption_characters": 21}, {"caption_characters": 20}, "caption_too_long", "caption of 21 characters, above 20"),
    ({"nsfw": 0.7}, {"nsfw": 0.5}, "nsfw", "NSFW score of 0.7, above 0.5"),
    ({"aesthetic": 4.25}, {"aesthetic": 4.5}, "low_aesthetic", "aesthetic score of 4.25, below 4.5"),
]


def test_good_sample_is_kept():
    assert fate({}, policy()) == (None, None)
    assert fate({}, Policy()) == (None, None)


@pytest.mark.parametrize(("beyond", "at", "reason", "sentence"), LIMITS)
def test_limit_itself_is_kept_and_what_is_beyond_is_dropped(beyond, at, reason, sentence):
    assert fate(beyond, policy()) == (reason, sentence)
    assert fate(at, policy()) == (None, None)


def test_damaged_jpeg_is_dropped_or_kept_as_the_policy_says():
    reason, sentence = fate({"damaged": True}, policy())
    assert reason == "damaged_jpeg"
    assert "strict JPEG decoder" in sentence
    assert fate({"damaged": True}, policy(image={"damaged": "keep"})) == (None, None)


def test_missing_caption_is_dropped_only_where_one_is_required():
    no_caption = {"caption": None, "caption_characters": None}
    assert fate(no_caption, policy()) == ("no_caption", "it has no caption")
    assert fate(no_caption, policy(caption={"required": False})) == (None, None)


@pytest.mark.parametrize(("score", "reason"), [("nsfw", "no_nsfw_score"), ("aesthetic", "no_aesthetic_score")])
def test_missing_score_is_dropped_or_kept_as_the_policy_says(score, reason):
    assert fate({score: None}, policy())[0] == reason
    assert fate({score: None}, policy(**{score: {"when_null": "keep"}})) == (None, None)


@pytest.mark.parametrize(
    ("section", "key", "sample"),
    [
        ("image", "min_short_side", {"short_side": 1}),
        ("image", "max_aspect_ratio", {"aspect_ratio": 99.0}),
        ("image", "min_exposure", {"exposure": 0.0}),
        ("image", "max_exposure", {"exposure": 1.0}),
        ("image", "min_contrast", {"contrast": 0.0}),
        ("image", "min_sharpness", {"sharpness": 0.0}),
        ("caption", "max_characters", {"caption_characters": 10_000}),
        ("nsfw", "max", {"nsfw": 1.0}),
        ("nsfw", "max", {"nsfw": None}),  # although when_null says drop: there is no rule that a null could break
        ("aesthetic", "min", {"aesthetic": -3.0}),
        ("aesthetic", "min", {"aesthetic": None}),
    ],
)
def test_rule_that_is_null_does_not_apply(section, key, sample):
    assert fate(sample, policy())[0] is not None
    assert fate(sample, policy(**{section: {key: None}})) == (None, None)


def test_measure_that_is_null_breaks_no_rule():
    for name in ("damaged", "short_side", "aspect_ratio", "exposure", "contrast", "sharpness", "caption_characters"):
        assert fate({name: None}, policy()) == (None, None)


def test_first_rule_that_a_sample_breaks_is_its_reason():
    breaks_all = {
        "damaged": True,
        "short_side": 1,
        "aspect_ratio": 9.0,
        "exposure": 0.0,
        "contrast": 0.0,
        "sharpness": 0.0,
        "caption": None,
        "caption_characters": 1,
        "nsfw": 1.0,
        "aesthetic": 0.0,
    }
    mended, found = dict(breaks_all), []
    for name in breaks_all:
        found.append(fate(mended, policy())[0])
        mended[name] = GOOD[name]
    assert found == [
        "damaged_jpeg",
        "low_resolution",
        "aspect_ratio",
        "too_dark",
        "flat",
        "blurred",
        "no_caption",
        "caption_too_short",
        "nsfw",
        "low_aesthetic",
    ]
    assert fate(mended, policy()) == (None, None)


def test_failed_sample_has_its_status_and_error_and_meets_no_rule():
    nothing = dict.fromkeys(set(GOOD) - {"status", "error"})
    assert fate(nothing | {"status": "decode_failed", "error": "s/k: broken"}, policy()) == (
        "decode_failed",
        "s/k: broken",
    )


def test_many_samples_are_judged_each_by_itself():
    samples = [{}, {"nsfw": 0.75}, {"status": "empty_image", "error": "e"}, {}, {"short_side": 5, "nsfw": 0.75}]
    assert [reason for reason, _ in fates(samples, policy())] == [
        None,
        "nsfw",
        "empty_image",
        None,
        "low_resolution",
    ]
    assert fates([], policy()) == []


# Duplicates: rows by letter. Vectors are directions in a plane, in degrees; cosines are those of the angles between.
#
#   a 0   b 8   c 24   d 32    semantic: a-b .9903, b-c .9613, c-d .9903; a-c .9135, b-d .9135, a-d .8480
#   e 80  f 100                perceptual: their hashes differ in 3 bits; cosine .9397
#   g 150 h 150                exact: the same bytes
#   i 200                      alone
ROWS = "abcdefghi"
ANGLES = dict(zip(ROWS, (0, 8, 24, 32, 80, 100, 150, 150, 200), strict=True))
SHAS = dict(zip(ROWS, ("5a", "4b", "3c", "2d", "1e", "0f", "77", "77", "99"), strict=True))
# hashes far from each other, but for e and f
HASHES = {letter: 0xFF << (7 * i) for i, letter in enumerate(ROWS)} | {"f": (0xFF << 28) ^ 0b111}


def vectors() -> np.ndarray:
    return np.array([[math.cos(math.radians(ANGLES[x])), math.sin(math.radians(ANGLES[x]))] for x in ROWS], np.float16)


def members(**columns) -> pa.Table:
    """All equal but for what is given: letter -> value, by column."""
    usual = {"eligible": True, "aesthetic": 5.0, "pixels": 100.0, "image_size": 10, "caption_characters": 5}
    usual |= {"sharpness": 1.0, "textured": True}
    table = {
        "shard": ["s"] * len(ROWS),
        "key": list(ROWS),
        "sha256": [SHAS[letter] for letter in ROWS],
        "phash": pa.array([HASHES[letter] for letter in ROWS], pa.uint64()),
    }
    for name, value in usual.items():
        changed = columns.get(name, {})
        table[name] = [changed.get(letter, value) for letter in ROWS]
    return pa.table(table)


def edges() -> Edges:
    def between(pairs: str, similarities: list[float], kind: Kind) -> Edges:
        ends = [(ROWS.index(pair[0]), ROWS.index(pair[1])) for pair in pairs.split()]
        return Edges.between([a for a, _ in ends], [b for _, b in ends], similarities, kind)

    cosines = [math.cos(math.radians(angle)) for angle in (8, 16, 8)]
    return concatenate(
        [
            between("ab bc cd", cosines, Kind.SEMANTIC),
            between("ef", [1 - 3 / 64], Kind.PERCEPTUAL),
            between("gh", [1.0], Kind.EXACT),
        ]
    )


def resolved(table: pa.Table | None = None, threshold: float = 0.95, **rules) -> pa.Table:
    chosen = Policy(duplicates=DuplicateRules.model_validate({"survivor": ["first"]} | rules))
    return resolve_duplicates(members() if table is None else table, vectors(), edges(), chosen, threshold)


def resolve(table: pa.Table | None = None, threshold: float = 0.95, **rules) -> dict[str, dict]:
    """key -> its row."""
    return {row["key"]: row for row in resolved(table, threshold, **rules).to_pylist()}


def groups(found: dict[str, dict]) -> dict[str, str]:
    """Representative -> the others of its group."""
    survivors = sorted({row["representative_key"] for row in found.values()})
    return {s: "".join(k for k, row in found.items() if row["representative_key"] == s and k != s) for s in survivors}


def test_groups_of_all_three_kinds():
    found = resolve()
    assert groups(found) == {"a": "bcd", "e": "f", "g": "h"}
    assert "i" not in found
    assert {key for key, row in found.items() if row["is_duplicate"]} == set("bcdfh")
    assert {key: row["how"] for key, row in found.items()} == {
        "a": None,
        "b": "semantic",
        "c": "chain",
        "d": "chain",
        "e": None,
        "f": "perceptual",
        "g": None,
        "h": "exact",
    }
    expected = {"a": 1, "b": 0.9903, "c": 0.9135, "d": 0.8480, "e": 1, "f": 0.9397, "g": 1, "h": 1}
    assert {key: row["similarity"] for key, row in found.items()} == pytest.approx(expected, abs=5e-4)
    assert all(row["shard"] == row["representative_shard"] == "s" for row in found.values())


def test_higher_threshold_splits_the_chain_without_a_new_search():
    assert groups(resolve(threshold=0.97)) == {"a": "b", "c": "d", "e": "f", "g": "h"}
    assert groups(resolve(threshold=0.995)) == {"e": "f", "g": "h"}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"max_phash_distance": 2}, {"a": "bcd", "g": "h"}),
        ({"max_phash_distance": 3}, {"a": "bcd", "e": "f", "g": "h"}),
        ({"max_phash_distance": None}, {"a": "bcd", "g": "h"}),
        ({"exact": False}, {"a": "bcd", "e": "f"}),
        ({"min_similarity": None}, {"e": "f", "g": "h"}),
        ({"exact": False, "max_phash_distance": None, "min_similarity": None}, {}),
    ],
)
def test_each_kind_has_its_own_threshold_and_can_be_off(rules, expected):
    assert groups(resolve(**rules)) == expected


@pytest.mark.parametrize(
    ("rank", "column", "best"),
    [
        ("aesthetic", "aesthetic", {"c": 5.5}),
        ("resolution", "pixels", {"c": 101.0}),
        ("bytes", "image_size", {"c": 11}),
        ("caption", "caption_characters", {"c": 6}),
        ("sharpness", "sharpness", {"c": 1.5}),
    ],
)
def test_survivor_is_the_best_by_each_rule(rank, column, best):
    found = resolve(members(**{column: best}), survivor=[rank, "first"])
    assert groups(found) == {"c": "abd", "e": "f", "g": "h"}
    assert found["b"]["how"] == "semantic"  # b-c
    assert found["a"]["how"] == "chain"


def test_survivor_without_a_value_is_the_worst():
    found = resolve(members(aesthetic={"a": None, "b": None, "c": -2.0, "d": None}), survivor=["aesthetic", "first"])
    assert groups(found)["c"] == "abd"


def test_later_rules_decide_ties_of_the_earlier_ones():
    table = members(aesthetic={"b": 6.0, "c": 6.0}, pixels={"a": 900.0, "c": 200.0, "d": 300.0})
    assert "c" in groups(resolve(table, survivor=["aesthetic", "resolution", "first"]))
    assert "a" in groups(resolve(table, survivor=["resolution", "aesthetic", "first"]))
    assert "b" in groups(resolve(table, survivor=["aesthetic", "first", "resolution"]))


def test_aesthetic_scores_that_differ_by_less_than_a_hundredth_are_a_tie():
    table = members(aesthetic={"a": 6.001, "b": 6.004}, pixels={"a": 101.0})
    assert "a" in groups(resolve(table, survivor=["aesthetic", "resolution"]))
    table = members(aesthetic={"a": 6.00, "b": 6.02}, pixels={"a": 101.0})
    assert "b" in groups(resolve(table, survivor=["aesthetic", "resolution"]))


def test_ties_end_at_the_smallest_hash_and_then_at_the_name():
    """SHAS fall from a to d and from e to f; g and h are the same bytes."""
    assert groups(resolve(survivor=["resolution"])) == {"d": "abc", "f": "e", "g": "h"}


def test_sample_that_is_dropped_anyway_takes_no_other_with_it():
    table = members(aesthetic={"a": 9.0, "e": 9.0}, eligible={"a": False, "e": False})
    found = resolve(table, survivor=["aesthetic", "first"])
    assert groups(found) == {"b": "acd", "f": "e", "g": "h"}
    assert {key for key, row in found.items() if row["is_duplicate"]} == set("cdh")
    assert found["a"]["how"] == "semantic"
    assert found["a"]["similarity"] == pytest.approx(0.9903, abs=5e-4)


def test_group_without_an_eligible_member_has_no_representative():
    found = resolve(members(eligible=dict.fromkeys("abcd", False)))
    for key in "abcd":
        row = found[key]
        assert (row["representative_shard"], row["representative_key"], row["similarity"]) == (None, None, None)
        assert (row["how"], row["is_duplicate"]) == (None, False)
    assert found["h"]["is_duplicate"]


# Rows a, b, c, d are a chain. In the other groups two members are alike, and all three rules agree on them.
@pytest.mark.parametrize(
    ("rule", "representatives", "gone"),
    [
        ("components", {"a": "a", "b": "a", "c": "a", "d": "a"}, "bcd"),
        ("star", {"a": "a", "b": "a", "c": "c", "d": "c"}, "bd"),
        ("ranked", {"a": "a", "b": "a", "c": "b", "d": "c"}, "bcd"),
    ],
)
def test_rules_of_groups_on_a_chain(rule, representatives, gone):
    found = resolve(groups=rule)
    assert {key: found[key]["representative_key"] for key in "abcd"} == representatives
    assert {key for key, row in found.items() if row["is_duplicate"]} == {*gone, "f", "h"}
    last = {key: "s/c" if rule == "star" and key in "cd" else "s/a" for key in "abcd"}
    assert {key: row["group"] for key, row in found.items()} == last | dict(e="s/e", f="s/e", g="s/g", h="s/g")
    rows = decided([(key, "ok", None, None) for key in ROWS], resolved(groups=rule))
    assert {key for key, row in rows.items() if row["decision"] == "dropped"} == {*gone, "f", "h"}
    for key in gone:
        how = "chain" if rule == "components" and key in "cd" else "semantic"
        degrees = abs(ANGLES[key] - ANGLES[representatives[key]])
        assert found[key]["how"] == how
        assert found[key]["similarity"] == pytest.approx(math.cos(math.radians(degrees)), abs=5e-4)


def test_star_leaves_alone_who_is_linked_only_through_one_that_goes():
    """Row b takes row c with it, so row d has no twin that stays: it is kept, and in no group."""
    found = resolve(members(pixels={"b": 101.0}), groups="star", survivor=["resolution", "first"])
    assert groups(found) == {"b": "ac", "e": "f", "g": "h"}
    assert "d" not in found


@pytest.mark.parametrize("rule", ["star", "ranked"])
def test_sample_that_is_dropped_anyway_takes_no_other_with_it_by_any_rule(rule):
    """Row a goes for another reason, so row b stays, and is what row a is shown beside."""
    found = resolve(members(eligible={"a": False}), groups=rule)
    assert groups(found)["b"] == "ac"
    assert {key for key, row in found.items() if row["is_duplicate"]} == {
        *{"star": "c", "ranked": "cd"}[rule],
        "f",
        "h",
    }


def test_all_pairs_of_a_group_are_seen_not_only_those_of_the_forest():
    """The edge a-c is in no forest, since a-b and b-c are stronger; at 0.9 row c is like row a all the same."""
    assert groups(resolve(threshold=0.9, groups="star"))["a"] == "bc"
    assert groups(resolve(threshold=0.9, groups="ranked")) == {"a": "bc", "b": "d", "e": "f", "g": "h"}


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        (0.84, {"a": "bcd"}),
        (0.86, {"a": "bc"}),  # a-d is .8480
        (0.92, {"a": "b", "c": "d"}),  # a-c is .9135: c and d are split off, and are twins of each other
    ],
)
def test_component_is_split_where_the_one_that_stays_is_too_far(guard, expected):
    found = resolve(min_keeper_similarity=guard)
    assert groups(found) == expected | {"e": "f", "g": "h"}
    assert all(row["similarity"] >= guard for row in found.values())


def test_guard_is_for_components_alone():
    for rule in ("star", "ranked"):
        assert resolve(groups=rule, min_keeper_similarity=1.0) == resolve(groups=rule)


def test_how_unlike_dropped_duplicates_are_is_counted():
    def facts(limit, **rules):
        rows = decided([(key, "ok", None, None) for key in ROWS], resolved(**rules))
        return similarity_facts(pa.Table.from_pylist(list(rows.values()), SELECTION_SCHEMA), limit)

    chained = {"smallest_similarity": pytest.approx(0.8480, abs=5e-4)}
    assert facts(0.92) == chained | {"duplicates_below_limit": 2}  # c and d
    assert facts(None) == chained | {"duplicates_below_limit": 0}
    assert facts(0.92, groups="star") == {
        "smallest_similarity": pytest.approx(0.9397, abs=5e-4),
        "duplicates_below_limit": 0,
    }
    nothing = {"exact": False, "max_phash_distance": None, "min_similarity": None}
    assert facts(0.92, **nothing) == {"smallest_similarity": None, "duplicates_below_limit": 0}


def test_hash_of_a_flat_image_says_nothing():
    """Without texture e and f are not found by search; were they tied by others, their hashes would be no reason."""
    found = resolve(members(textured={"e": False}))
    assert found["f"]["how"] == "chain"


def test_order_of_rows_and_edges_changes_nothing():
    rng = np.random.default_rng(5)
    expected = resolve(members(pixels={"c": 101.0}), survivor=["resolution"])
    chosen = Policy(duplicates=DuplicateRules(survivor=("resolution",)))
    for _ in range(5):
        order = rng.permutation(len(ROWS))
        place = np.argsort(order)  # old row -> new row
        tied = edges()
        mixed = rng.permutation(len(tied))
        moved = concatenate([Edges.between(place[tied.a], place[tied.b], tied.similarity, Kind.EXACT)]).take(mixed)
        moved = Edges(moved.a, moved.b, moved.similarity, tied.kind[mixed])
        table = members(pixels={"c": 101.0}).take(pa.array(order))
        rows = resolve_duplicates(table, vectors()[order], moved, chosen, 0.95).to_pylist()
        assert {row["key"]: row for row in rows} == expected


def test_no_members_at_all():
    found = resolve_duplicates(members().slice(0, 0), vectors()[:0], Edges.none(), Policy(), 0.9)
    assert found.num_rows == 0
    assert decided([("a", "ok", None, None)], found)["a"]["decision"] == "kept"


def decided(samples: list[tuple], duplicates: pa.Table) -> dict[str, dict]:
    """samples: (key, status, reason, detail)."""
    keys, statuses, reasons, details = (list(column) for column in zip(*samples, strict=True))
    table = pa.table({"shard": ["s"] * len(keys), "key": keys, "status": statuses})
    found = decide(table, np.array(reasons, object), np.array(details, object), duplicates)
    assert found.schema == SELECTION_SCHEMA
    assert found["key"].to_pylist() == keys
    return {row["key"]: row for row in found.to_pylist()}


def test_decision_of_every_kind_of_sample():
    table = members(eligible={"b": False})
    twins = resolve_duplicates(table, vectors(), edges(), Policy(duplicates=DuplicateRules(survivor=("first",))), 0.95)
    rows = decided(
        [
            ("a", "ok", None, None),
            ("b", "ok", "nsfw", "NSFW score of 0.9, above 0.5"),
            ("c", "ok", None, None),
            ("f", "ok", None, None),
            ("h", "ok", None, None),
            ("i", "ok", None, None),
            ("x", "not_an_image", "not_an_image", "shard s, member x.jpg: it is text"),
        ],
        twins,
    )
    fates = {key: (row["decision"], row["reason"]) for key, row in rows.items()}
    assert fates == {
        "a": ("kept", None),
        "b": ("dropped", "nsfw"),
        "c": ("dropped", "duplicate_chain"),
        "f": ("dropped", "duplicate_perceptual"),
        "h": ("dropped", "duplicate_exact"),
        "i": ("kept", None),
        "x": ("failed", "not_an_image"),
    }
    assert rows["c"]["detail"] == "linked through other duplicates to s/a (cosine 0.9135), which ranks higher"
    assert rows["f"]["detail"].startswith("looks the same as s/e (cosine 0.93")
    assert rows["h"]["detail"] == "the same bytes as s/g (cosine 1.0000), which ranks higher"
    assert rows["b"]["detail"] == "NSFW score of 0.9, above 0.5"
    assert rows["x"]["detail"] == "shard s, member x.jpg: it is text"
    assert {key: row["group"] for key, row in rows.items()} == {
        "a": "s/a",
        "b": "s/a",
        "c": "s/a",
        "f": "s/e",
        "h": "s/g",
        "i": None,
        "x": None,
    }
    assert rows["i"]["similarity"] is rows["i"]["representative_key"] is None


def test_semantic_duplicate_has_its_sentence():
    found = resolve_duplicates(members(), vectors(), edges(), Policy(), 0.95)
    best = next(row["representative_key"] for row in found.to_pylist() if row["key"] == "d")
    assert best == "a"  # all measures are equal, so the first
    rows = decided([("b", "ok", None, None)], found)
    assert rows["b"]["detail"].startswith("nearly the same content as s/a (cosine 0.99")
    assert rows["b"]["reason"] == "duplicate_semantic"


def test_twins_of_another_shard_with_the_same_key_are_not_looked_at():
    found = resolve_duplicates(members(), vectors(), edges(), Policy(), 0.95)
    table = pa.table({"shard": ["other"], "key": ["b"], "status": ["ok"]})
    (row,) = decide(table, np.array([None], object), np.array([None], object), found).to_pylist()
    assert (row["decision"], row["group"]) == ("kept", None)
