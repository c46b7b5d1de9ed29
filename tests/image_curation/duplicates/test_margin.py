"""Margins: what a sample's duplicates need, with certainty, by as many rows as that takes and no more."""

from dataclasses import replace

import numpy as np
import pytest

from image_curation.duplicates import margin as module
from image_curation.duplicates.cells import Cells, train_cells
from image_curation.duplicates.edges import concatenate
from image_curation.duplicates.margin import fitted_margin
from image_curation.duplicates.semantic import semantic_pairs

T = 0.93


def pairs(x: np.ndarray, cells: Cells | None = None) -> set[tuple[int, int]]:
    edges = concatenate(list(semantic_pairs(x, T, cells)))
    return set(zip(edges.a.tolist(), edges.b.tolist(), strict=True))


@pytest.fixture(scope="module")
def cells(planted) -> Cells:
    return train_cells(planted.vectors, 16, max_ghosts=16)


def test_a_higher_recall_asks_for_a_wider_margin_that_meets_it(planted, cells: Cells):
    x, brute = planted.vectors, pairs(planted.vectors)
    margins = [fitted_margin(x, cells, T, recall, queries=len(x)) for recall in (0.9, 0.97, 0.99)]
    assert 0.02 <= margins[0] < margins[1] < margins[2] < 0.5
    shares = [len(brute & pairs(x, replace(cells, margin=margin))) / len(brute) for margin in margins]
    assert shares[0] < shares[2]
    assert shares[2] > 0.985  # each row counts once there, here each pair


def test_too_few_rows_to_show_a_recall_give_the_cells_own_margin_or_more(planted, cells: Cells):
    x = planted.vectors
    assert fitted_margin(x, cells, T, 0.999, queries=300) >= cells.margin
    shown = fitted_margin(x, cells, T, 0.99, queries=len(x))
    narrow = replace(cells, margin=0.01)
    assert fitted_margin(x, narrow, T, 0.999, queries=len(x)) > shown  # more than any needs
    assert fitted_margin(x, narrow, T, 1.0, queries=len(x)) > shown
    assert fitted_margin(x[:50], cells, 0.999, 0.999) == cells.margin  # there are no duplicates
    assert fitted_margin(x[:0], cells, T, 0.999) == cells.margin


def test_no_more_rows_are_compared_than_the_recall_takes(planted, cells: Cells, monkeypatch: pytest.MonkeyPatch):
    """Some 0.15 of the rows have duplicates. It takes 15 of these for 0.9, 81 for 0.98, more than exist for 0.999."""
    asked: list[int] = []
    duplicates_of = module._duplicates_of

    def counted(*given):
        asked[-1] += len(given[2])
        return duplicates_of(*given)

    monkeypatch.setattr(module, "_duplicates_of", counted)
    monkeypatch.setattr(module, "_FIRST_QUERIES", 300)
    for recall in (0.9, 0.98, 0.999):
        asked.append(0)
        fitted_margin(planted.vectors, cells, T, recall)
    assert asked[0] == 300
    assert all(300 < rows < len(planted.vectors) / 2 for rows in asked[1:])


def test_the_margin_that_is_shown_is_the_one_of_the_wilson_interval():
    """Of 200 rows 0.98 is certain where the interval of 90 % on one side begins there: at a share of 0.9927."""
    need = np.arange(200) / 1_000
    rows = np.random.default_rng(0).permutation(200)
    assert module.shown(need[rows], rows, 200, 0.98) == pytest.approx(0.198)
    assert module.shown(need[rows], rows, 200, 0.9) == pytest.approx(0.185)  # a share of 0.9272: 186 of 200
    twice = np.repeat(rows, 2)  # two duplicates of each row count half
    assert module.shown(need[twice], twice, 200, 0.9) == pytest.approx(0.185)
