"""Sketches: exact to the byte, symmetric, on their sphere, and with a cut that duplicates reach and others do not."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from image_curation.duplicates import sketches as module
from image_curation.duplicates.margin import Sampled, sampled_duplicates
from image_curation.duplicates.products import Products
from image_curation.duplicates.sketch_cut import fitted_cut
from image_curation.duplicates.sketches import RADIUS, SKETCH_BYTES, Sketcher, dots, train_sketcher
from image_curation.errors import ConfigError

T = 0.93


@pytest.fixture(scope="module")
def sketcher(planted) -> Sketcher:
    return train_sketcher(planted.vectors)


def sketched(sketcher: Sketcher, x: np.ndarray) -> np.ndarray:
    return sketcher.sketch(torch.from_numpy(x)).numpy()


def test_a_sketch_by_hand():
    """Steps of 10 a unit: 7.5 is 8, 2.5 is 2 (to even), less the mean's; the last is the root of 127^2 - 6^2 - 2^2."""
    two = Sketcher(np.array([[1, 0, 0], [0, 0.5, 0]], np.float32), np.array([2, 4]), scale=10.0)
    sketch = sketched(two, np.array([[0.75, 0.5, 0.125]], np.float16))
    assert sketch.tolist() == [[6, -2, *[0] * (SKETCH_BYTES - 3), 127]]  # 126.84
    far = replace(two, scale=1000.0)
    assert sketched(far, np.array([[0.75, 0.5, 0]], np.float16)).tolist() == [[127, 127, *[0] * (SKETCH_BYTES - 3), 0]]


def test_sketches_are_those_of_rational_arithmetic(planted, sketcher: Sketcher):
    for x in planted.vectors[:3]:
        sketch = sketched(sketcher, x[None])[0].tolist()
        for step, direction, offset in zip(sketch, sketcher.directions, sketcher.offsets.tolist(), strict=False):
            component = sum(Fraction(float(p)) * Fraction(float(q)) for p, q in zip(x, direction, strict=True))
            scaled = float(component) * sketcher.scale  # the component fits a float
            assert Fraction(float(component)) == component
            assert step == min(max(round(scaled) - offset, -127), 127)
        left = max(0, RADIUS**2 - sum(step * step for step in sketch[:-1]))
        assert sketch[-1] == round(left**0.5)


def test_a_sketch_depends_on_its_row_alone(planted, sketcher: Sketcher, monkeypatch: pytest.MonkeyPatch):
    x = planted.vectors[:1_000]
    whole = sketched(sketcher, x)
    monkeypatch.setitem(module._VALUES, "cpu", 96 * 7)
    assert np.array_equal(sketched(sketcher, x), whole)
    assert np.array_equal(sketched(sketcher, x[::-1].copy())[::-1], whole)
    # The sum of a component in another order is another column of another matrix, and the same number.
    turned = replace(sketcher, directions=sketcher.directions[:, ::-1].copy())
    assert np.array_equal(sketched(turned, x[:, ::-1].copy()), whole)
    assert whole.dtype == np.int8
    assert whole.shape == (1_000, SKETCH_BYTES)


def test_components_use_many_steps_and_hardly_ever_clip(planted, sketcher: Sketcher):
    sketches = sketched(sketcher, planted.vectors).astype(np.int64)
    assert sketcher.directions.shape == (SKETCH_BYTES - 1, 96)
    assert (np.abs(sketches[:, :-1]) == 127).mean() < 1e-4
    assert sketches[:, :-1].std(axis=0).min() > 4
    assert sketches[:, -1].min() > 30
    assert (sketches**2).sum(axis=1) == pytest.approx(RADIUS**2, rel=0.01)


def test_whether_two_may_be_close_does_not_depend_on_which_is_first(planted, sketcher: Sketcher):
    x, y = np.split(sketched(sketcher, planted.vectors[:6_000]), 2)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    cut = replace(sketcher, cut=int(dots(x, y).median()))
    assert torch.equal(cut.may_be_close(x, y), cut.may_be_close(y, x))
    assert 0.4 < cut.may_be_close(x, y).float().mean() < 0.6
    assert sketcher.may_be_close(x, y).all()  # without a cut
    exact = (x.long() * y.long()).sum(1)
    assert torch.equal(dots(x, y).long(), exact)


def test_the_cut_keeps_duplicates_that_it_was_not_fitted_to_and_few_others(planted, sketcher: Sketcher):
    """Half of the planted duplicates give a cut, which the other half reaches; of other pairs few do."""
    x = planted.vectors
    half = np.r_[: planted.originals, planted.originals : len(x) : 2]
    cut = replace(sketcher, cut=fitted_cut(sketcher, sampled_duplicates(x[half], T, 0.999), T, 0.9999))
    sketches = torch.from_numpy(sketched(sketcher, x))
    near = np.arange(planted.originals + 1, len(x), 2)
    passed = cut.may_be_close(sketches[near], sketches[planted.source[near - planted.originals]])
    assert passed.float().mean() >= 0.99
    others = np.random.default_rng(0).integers(0, planted.originals, (2, 100_000))
    others = torch.from_numpy(others[:, others[0] != others[1]])
    assert cut.may_be_close(sketches[others[0]], sketches[others[1]]).float().mean() < 1e-3


def test_the_fewer_duplicates_are_known_the_lower_the_cut(planted, sketcher: Sketcher):
    found = sampled_duplicates(planted.vectors, T, 0.999)
    rows = np.unique(found.a)

    def cut(known: int, share: float = 0.9999) -> int:
        chosen = np.isin(found.a, rows[:known])
        return fitted_cut(sketcher, Sampled(found.block, found.a[chosen], found.b[chosen]), T, share)

    assert 300 < len(rows) < 400
    assert cut(0) == cut(20) < cut(120) < RADIUS**2  # pairs that differ as any two do
    a, b = (sketched(sketcher, planted.vectors[rows]) for rows in (found.a, found.b))
    least = int(dots(torch.from_numpy(a), torch.from_numpy(b)).min())
    assert cut(len(rows)) < least < cut(len(rows), 0.9)
    need = RADIUS**2 - least
    assert RADIUS**2 - cut(len(rows)) == pytest.approx(1.188 * need, rel=0.01)  # 1 + ln(16,421 / 354) / ln(164) / 4


def test_pairs_at_the_threshold_reach_the_cut_of_no_known_duplicates(planted, sketcher: Sketcher):
    x = planted.vectors[: planted.originals].astype(np.float64)
    none = np.empty(0, np.int64)
    block, _ = Products().load(planted.vectors)
    cut = replace(sketcher, cut=fitted_cut(sketcher, Sampled(block, none, none), T, 0.9999))
    other = np.roll(x, 1, axis=0)  # x turned towards another vector until the cosine is that of the threshold
    aside = other - (other * x).sum(1, keepdims=True) * x
    near = T * x + (1 - T * T) ** 0.5 * aside / np.linalg.norm(aside, axis=1, keepdims=True)
    a, b = (torch.from_numpy(sketched(sketcher, vectors.astype(np.float16))) for vectors in (x, near))
    assert cut.may_be_close(a, b).float().mean() > 0.99
    assert (RADIUS**2 - dots(a, b)).median() > (RADIUS**2 - cut.cut) / 3  # it is not so low that all would


@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_small_samples_and_dimensions_give_fewer_directions(rows: int):
    x = np.random.default_rng(0).standard_normal((rows, 5)).astype(np.float16)
    with_none = np.concatenate([x, np.zeros((3, 5), np.float16), np.full((2, 5), np.nan, np.float16)])
    sketcher = train_sketcher(with_none)
    assert len(sketcher.directions) == len(sketcher.offsets) == min(max(rows - 1, 0), 5)
    sketches = sketched(sketcher, with_none)
    assert sketches.shape == (rows + 5, SKETCH_BYTES)
    assert not sketches[:, len(sketcher.offsets) : -1].any()
    if rows:
        found = sampled_duplicates(x, T, 0.999)
        cut = replace(sketcher, cut=fitted_cut(sketcher, found, T, 0.9999))
        same = torch.from_numpy(sketches)
        assert cut.may_be_close(same, same).all()


def test_rows_without_a_vector_make_no_difference_and_have_a_sketch(planted, sketcher: Sketcher):
    none = np.concatenate([np.zeros((2, 96), np.float16), np.full((2, 96), np.nan, np.float16)])
    again = train_sketcher(np.concatenate([planted.vectors, none]))
    assert np.array_equal(again.directions, sketcher.directions)
    assert again.scale == sketcher.scale
    assert len(np.unique(sketched(sketcher, none), axis=0)) == 1


def test_vectors_of_another_dimension_are_refused(sketcher: Sketcher):
    with pytest.raises(ConfigError, match="vectors have 4 dimensions, the directions of sketches 96"):
        sketched(sketcher, np.ones((1, 4), np.float16))
