"""What is to be done, decided from values alone: new, changed, removed, failed and stale tars."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from assets.discovery import Known, plan, unchanged
from assets.made import Made, released, tar_version
from assets.versions import SAMPLES, versions
from image_curation.shards.discover import Shard

NOW = versions(None)
EARLIER = {name: f"{version}-earlier" for name, version in NOW.items()}


def tar(key: str, fingerprint: str = "1") -> Shard:
    return Shard(key, f"/raw/{key}.tar", 10, f"{key}-{fingerprint}")


def made_of(*tars: Shard, assets=SAMPLES, code=NOW) -> dict[str, dict[str, Made]]:
    """As on record when these assets were made of these tars."""
    return {
        asset: {one.key: Made(tar_version(one.fingerprint), code[asset], "rows") for one in tars}
        if asset in assets
        else {}
        for asset in SAMPLES
    }


def tag(*tars: Shard, code=NOW) -> str:
    return released({one.key: tar_version(one.fingerprint) for one in tars}, code["curated_shards"])


A, B, C, D = tar("a"), tar("b"), tar("c"), tar("d")
ALL = Known(("a", "b", "c"), made_of(A, B, C), released=tag(A, B, C))


def decide(found, known, stale=False, shards_per_run=500):
    return plan(found, known, NOW, stale, shards_per_run)


def asked(todo) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(batch.shards, batch.assets) for batch in todo.batches]


def test_new_tars_are_registered_and_made_from_the_index_on():
    todo = decide([A, B], Known())
    assert (todo.add, todo.remove) == (("a", "b"), ())
    assert asked(todo) == [(("a", "b"), SAMPLES)]
    assert todo.release == ""


def test_all_made_and_released_leaves_nothing_to_do():
    todo = decide([A, B, C], ALL, stale=True)
    assert (todo.add, todo.remove, todo.batches, todo.release, todo.waiting) == ((), (), (), "", 0)
    assert unchanged([A, B, C], ALL.registered, ALL.released)


def test_changed_tar_is_made_alone():
    changed = tar("b", "2")
    assert not unchanged([A, changed, C], ALL.registered, ALL.released)
    todo = decide([A, changed, C], ALL)
    assert asked(todo) == [(("b",), SAMPLES)]
    assert todo.add == todo.remove == ()


def test_removed_tar_is_forgotten_and_a_release_without_it_is_made():
    assert not unchanged([A, C], ALL.registered, ALL.released)
    todo = decide([A, C], ALL)
    assert (todo.remove, todo.batches) == (("b",), ())
    assert todo.release == tag(A, C)
    after = replace(ALL, registered=("a", "c"), released=todo.release)
    assert decide([A, C], after).release == ""


def test_what_is_made_is_released_once_though_the_release_before_failed():
    known = replace(ALL, released="")
    assert decide([A, B, C], known).release == tag(A, B, C)
    assert decide([A, B, C], replace(known, deciding=True)).release == ""


def test_shards_that_went_further_than_a_failed_one_go_on_apart_from_it():
    on = {asset: made_of(A, B, C)[asset] if asset == "shard_index" else {} for asset in SAMPLES}
    on["embeddings"] = {key: one for key, one in made_of(A, B, C)["embeddings"].items() if key != "b"}
    todo = decide([A, B, C], Known(("a", "b", "c"), on))
    assert asked(todo) == [(("a",), SAMPLES[2:]), (("b",), SAMPLES[1:]), (("c",), SAMPLES[2:])]


def test_shard_that_fails_for_good_does_not_hold_up_the_release_of_the_others():
    partly = made_of(A, C)
    partly["shard_index"] = made_of(A, B, C)["shard_index"]
    todo = decide([A, B, C], Known(("a", "b", "c"), partly))
    assert asked(todo) == [(("b",), SAMPLES[1:])]
    assert todo.release == tag(A, C)


def test_changed_tar_that_cannot_be_made_anew_leaves_the_release():
    changed = tar("b", "2")
    half = made_of(A, B, C)
    half["shard_index"]["b"] = made_of(changed)["shard_index"]["b"]
    assert decide([A, changed, C], replace(ALL, made=half)).release == tag(A, C)


def test_shards_that_a_run_works_on_are_left_to_it():
    todo = decide([A, B, C], Known(("a", "b", "c"), made_of(A), busy=frozenset("b")))
    assert asked(todo) == [(("c",), SAMPLES)]
    assert todo.waiting == 1


def test_batches_are_neighbours_in_the_order_of_registration_and_not_larger_than_a_run_takes():
    todo = decide([A, B, C, D], Known(("d", "b")), shards_per_run=3)
    assert asked(todo) == [(("d", "b", "a"), SAMPLES), (("c",), SAMPLES)]


def test_second_try_of_a_batch_has_its_name_and_that_of_a_changed_tar_has_another():
    first, again = (decide([A, B], Known(("a", "b"))).batches[0].content for _ in range(2))
    (other,) = decide([A, tar("b", "2")], Known(("a", "b"))).batches
    assert first == again != other.content


def test_other_version_is_taken_up_only_when_the_stale_is_asked_for():
    code = NOW | {name: EARLIER[name] for name in ("embeddings", "aesthetic_scores", "nsfw_scores", "known_matches")}
    known = replace(ALL, made=made_of(A, B, C, code=code))
    assert decide([A, B, C], known).batches == ()
    assert asked(decide([A, B, C], known, stale=True)) == [(("a", "b", "c"), SAMPLES[1:])]


def test_other_policy_makes_a_release_and_nothing_of_the_shards():
    known = replace(ALL, released=tag(A, B, C, code=EARLIER))
    assert decide([A, B, C], known).release == ""
    todo = decide([A, B, C], known, stale=True)
    assert (todo.batches, todo.release) == ((), tag(A, B, C))


def test_shards_on_record_from_before_versions_were_recorded_are_made_once_more():
    known = replace(ALL, made={asset: dict.fromkeys("abc", Made("", "", "")) for asset in SAMPLES})
    assert asked(decide([A, B, C], known)) == [(("a", "b", "c"), SAMPLES)]


keys = st.sets(st.sampled_from([f"s{n}" for n in range(12)]), min_size=1)
prints = st.sampled_from("12")


@given(st.data(), keys, keys, st.integers(1, 5), st.booleans())
def test_carrying_out_what_is_decided_leaves_nothing_to_do(data, in_source, on_record, shards_per_run, stale):
    found = [tar(key, data.draw(prints)) for key in sorted(in_source)]
    registered = data.draw(st.permutations(sorted(on_record)))
    made = {
        asset: {
            key: Made(
                tar_version(f"{key}-{data.draw(prints)}"), data.draw(st.sampled_from([NOW, EARLIER]))[asset], "rows"
            )
            for key in sorted(data.draw(st.sets(st.sampled_from(registered))))
        }
        for asset in SAMPLES
    }
    todo = plan(found, Known(registered, made), NOW, stale, shards_per_run)
    after = [key for key in registered if key not in todo.remove] + list(todo.add)
    assert set(after) == in_source
    by_key = {one.key: one for one in found}
    for batch in todo.batches:
        assert 1 <= len(batch.shards) <= shards_per_run
        start = after.index(batch.shards[0])
        assert tuple(after[start : start + len(batch.shards)]) == batch.shards
        for asset in batch.assets:
            made[asset] |= made_of(*(by_key[key] for key in batch.shards))[asset]
    asked_for = [key for batch in todo.batches for key in batch.shards]
    assert len(asked_for) == len(set(asked_for))
    rest = plan(found, Known(after, made), NOW, stale, shards_per_run)
    assert (rest.add, rest.remove, rest.batches) == ((), (), ())
    assert plan(found, Known(after, made, released=rest.release), NOW, stale, shards_per_run).release == ""
    assert unchanged(found, after, rest.release)
