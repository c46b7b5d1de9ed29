"""The NSFW heads against golden outputs of the original model, and their lookup against the printed strings."""

from decimal import Decimal

import numpy as np
import pytest

from image_curation.errors import ConfigError, WeightsError
from image_curation.heads import CLIP_B_32, CLIP_L_14, HEADS, load_head
from image_curation.heads.nsfw import category_table, read_nsfw_head

SPACES = {"l14": (CLIP_L_14, 768, [180, 316, 413, 440, 644]), "b32": (CLIP_B_32, 512, [92, 133, 312])}


@pytest.fixture(scope="module", params=["l14", "b32"])
def size(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def head(heads_data, size):
    return load_head("nsfw", SPACES[size][0], str(heads_data / "nsfw"))


@pytest.fixture(scope="module")
def golden(heads_data, size):
    return np.load(heads_data / "nsfw" / f"nsfw_{size}_golden.npz")


@pytest.fixture(scope="module")
def arrays(heads_data, size):
    """The same weights, extracted by other means; here only to compare with."""
    return np.load(heads_data / "nsfw" / f"nsfw_{size}_weights.npz")


def score_by_strings(arrays, row: np.ndarray) -> float:
    """The original model for one fp16 row, with float32 arithmetic and a look-up of printed strings."""
    values = row.astype(np.float32)
    for column in arrays["cat_cols"]:
        vocabulary = dict(zip(arrays[f"vocab_{column}"].tolist(), arrays[f"vocabidx_{column}"].tolist(), strict=True))
        values[column] = vocabulary.get(f"{float(row[column]):.6f}", 0)
    values = (values - arrays["mean"]) / np.sqrt(arrays["variance"])
    depth = sum(name.startswith("w") for name in arrays.files)
    for layer in range(depth):
        values = values @ arrays[f"w{layer}"] + arrays[f"b{layer}"]
        values = np.maximum(values, 0) if layer + 1 < depth else values
    return float(1 / (1 + np.exp(-values[0])))


def test_scores_equal_the_original_model(head, golden):
    scores = head.score(golden["f16_x"])
    assert scores.dtype == np.float32
    assert scores.shape == (128,)
    np.testing.assert_allclose(scores, golden["f16_y"][:, 0], rtol=0, atol=2e-6)


def test_single_precision_vectors_are_rounded_to_half_first(head, golden):
    np.testing.assert_array_equal(head.score(golden["f32_x"]), head.score(golden["f32_x"].astype(np.float16)))


def test_lookup_matters(head, golden):
    """The trap: with the raw value in a categorical column's place, golden values are missed by far."""
    categories = {column: np.arange(1 << 16, dtype=np.uint16).view(np.float16) for column in head.categories}
    port = type(head)(head.name, head.vector_space, head.weights_sha256, categories, head.layers)
    with np.errstate(invalid="ignore"):
        distance = np.abs(port.score(golden["f16_x"]) - golden["f16_y"][:, 0])
    assert distance.max() > 0.01


def test_table_equals_the_printed_string_for_every_half_precision_number(head, arrays, size):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(halves)
    assert finite.sum() == 63488
    # Decimal arithmetic is exact, so this prints independently of the C library's printf.
    printed = [f"{Decimal(number).quantize(Decimal('0.000001')):f}" for number in halves[finite].tolist()]
    assert printed[:2] == ["0.000000", "0.000000"]
    assert "-0.000000" in printed
    assert list(head.categories) == SPACES[size][2] == arrays["cat_cols"].tolist()
    for column, table in head.categories.items():
        known = dict(zip(arrays[f"vocab_{column}"].tolist(), arrays[f"vocabidx_{column}"].tolist(), strict=True))
        np.testing.assert_array_equal(table[finite], [known.get(text, 0) for text in printed])
        assert table.max() > 700
        assert (table[~finite] == 0).all()


def test_rows_with_known_unknown_and_extreme_categories_equal_the_string_path(head, arrays, size):
    _, dim, columns = SPACES[size]
    generator = np.random.default_rng(2)
    rows = generator.normal(0, 1 / np.sqrt(dim), (60, dim)).astype(np.float16)
    for column in columns:
        known = arrays[f"vocab_{column}"].astype(np.float64)
        rows[:20, column] = generator.choice(known, 20)
        rows[20:25, column] = [0.0, -0.0, 6e-8, -6e-8, 60000]
    expected = [score_by_strings(arrays, row) for row in rows]
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(head.score(rows), expected, rtol=0, atol=5e-6)


def test_score_of_a_row_does_not_depend_on_its_batch(head, golden):
    rows = golden["f16_x"]
    together = head.score(np.tile(rows, (40, 1)))  # 5120 rows: more than one block
    np.testing.assert_array_equal(together, np.tile(together[: len(rows)], 40))
    np.testing.assert_array_equal(np.concatenate([head.score(row[None]) for row in rows]), together[: len(rows)])
    np.testing.assert_array_equal(head.score(rows[::-1]), together[: len(rows)][::-1])


def test_row_with_nan_or_infinity_gets_nan_and_its_neighbours_keep_their_score(head, golden, size):
    expected = head.score(golden["f16_x"])
    rows = golden["f16_x"].copy()
    rows[0, 3] = np.nan
    rows[1, SPACES[size][2][0]] = np.nan  # in a categorical column it would be looked up as "nan"
    rows[2, 7] = -np.inf
    expected[:3] = np.nan
    np.testing.assert_array_equal(head.score(rows), expected)
    assert np.isnan(head.score(rows[:3])).all()


def test_no_rows_give_no_scores(head, size):
    assert head.score(np.zeros((0, SPACES[size][1]), np.float16)).shape == (0,)


def test_vectors_of_another_dimension_are_refused(head, size):
    with pytest.raises(ConfigError, match=rf"vectors of {SPACES[size][1]} numbers.*got \[2, 1024\]"):
        head.score(np.zeros((2, 1024), np.float16))


def test_category_table_by_hand():
    table = category_table({"0.500000": 7, "-0.000000": 3, "nan": 5})
    halves = np.array([0.5, -0.0, 0.0, 1.0], np.float16).view(np.uint16)
    np.testing.assert_array_equal(table[halves], [7, 3, 0, 0])


def test_zip_of_another_kind_is_refused(heads_data):
    file = HEADS["nsfw", CLIP_B_32][0]
    with pytest.raises(WeightsError, match=r"clip_autokeras_nsfw_b32\.zip is not a whole Keras model"):
        read_nsfw_head((heads_data / "aesthetic" / "sa_0_4_vit_b_32_linear.pth").read_bytes(), file, CLIP_B_32)
