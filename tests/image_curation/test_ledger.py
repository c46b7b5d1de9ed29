"""The ledger: sums that agree, or say that they do not."""

from image_curation.audit import total_ledger
from image_curation.ledger import Ledger


def test_adds_up_only_if_every_sample_has_one_fate():
    assert Ledger(read=7, kept=2, dropped={"a": 1, "b": 2}, failed={"c": 2}).adds_up
    assert not Ledger(read=8, kept=2, dropped={"a": 1, "b": 2}, failed={"c": 2}).adds_up
    assert not Ledger(read=6, kept=2, dropped={"a": 1, "b": 2}, failed={"c": 2}).adds_up
    assert Ledger().adds_up


def test_sum_of_shards_lists_the_most_frequent_first_then_by_name():
    one = Ledger(read=6, kept=1, dropped={"dark": 1, "nsfw": 1}, failed={"x": 3})
    two = Ledger(read=4, kept=0, dropped={"nsfw": 1, "blurred": 1}, failed={"y": 2})
    total = one + two
    assert total == Ledger(read=10, kept=1, dropped={"nsfw": 2, "blurred": 1, "dark": 1}, failed={"x": 3, "y": 2})
    assert list(total.dropped) == ["nsfw", "blurred", "dark"]
    assert total_ledger([one, two, Ledger()]) == total
    assert total_ledger([]) == Ledger()


def test_sentence_shows_the_sum_and_whether_it_holds():
    good = Ledger(read=1_234, kept=1_000, dropped={"a": 200, "b": 30}, failed={"c": 4})
    assert good.sentence() == "1,234 read = 1,000 kept + 230 dropped + 4 failed"
    assert good.model_copy(update={"kept": 999}).sentence() == "1,234 read ≠ 999 kept + 230 dropped + 4 failed"
