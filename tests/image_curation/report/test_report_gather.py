"""Artifacts -> the report's warnings, on the demo."""

from collections import Counter
from dataclasses import replace

import pytest

from image_curation.policy import DuplicateRules, Policy
from image_curation.report.gather import gather


@pytest.fixture
def warnings(demo, monkeypatch):
    """limit -> the warnings of a report with it; nothing is drawn."""
    for name in ("_sheets", "_groups"):
        monkeypatch.setattr(f"image_curation.report.gather.{name}", lambda *_: ([], 0))

    def of(**limit):
        project = replace(demo.project, policy=Policy(duplicates=DuplicateRules(**limit)))
        return gather(project, project.selected_shards()).warnings

    return of


def warned(texts) -> list[str]:
    return [text for text in texts if text.startswith("Dropped duplicates")]


def test_duplicates_far_from_their_representative_are_warned_of(demo, workshop, warnings):
    decisions = workshop.decisions(demo.project).values()
    largest = max(Counter(row["group"] for row in decisions if row["group"]).values())
    rows = [row for row in decisions if "duplicate_" in (row["reason"] or "")]
    below = [row["similarity"] for row in rows if row["similarity"] < 0.99]
    assert 0 < len(below) < len(rows)
    expected = (
        f"Dropped duplicates with a cosine to their representative below 0.99: {len(below)}, the smallest "
        f"{min(below):.4f}. The largest group has {largest} images."
    )
    (text,) = warned(warnings(warn_below=0.99))
    assert text.startswith(f"{expected} In the policy, `groups: star` ")
    assert warned(warnings(warn_below=0.99, groups="star")) == [expected]


def test_no_warning_without_such_duplicates_or_without_a_limit(demo, warnings):
    assert demo.project.warn_below == 0.85
    for limit in ("auto", None, 0.0):
        assert not warned(warnings(warn_below=limit))
