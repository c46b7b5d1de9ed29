"""Lists of hashes: each form that is read, each mistake with its place, and what a match says."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_curation.errors import ConfigError
from image_curation.known.hash_lists import blocked, read_hash_list

A, B = "a" * 64, "0123456789abcdef" * 4


@pytest.fixture
def listed(tmp_path: Path):
    def write(content: str | bytes, name: str = "list.txt") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def parquet(tmp_path: Path, **columns: pa.Array) -> str:
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    return str(tmp_path / "list.parquet")


def samples(*rows: tuple[str | None, int | None, float | None]) -> pa.Table:
    sha256, phash, contrast = zip(*rows, strict=True)
    return pa.table(
        {
            "sha256": pa.array(sha256, pa.string()),
            "phash": pa.array(phash, pa.uint64()),
            "contrast": pa.array(contrast, pa.float32()),
        }
    )


def test_text_with_comments_blank_lines_capitals_and_lines_of_sha256sum(listed):
    found = read_hash_list(
        listed(f"# takedowns\r\n\r\n{A.upper()}\r\n  {B}  a photo.jpg\n{A} *b.jpg\n00000000000000ff  # one of these\n")
    )
    assert found.sha256.to_pylist() == [B, A]
    assert found.phash.tolist() == [255]


def test_content_is_that_of_the_hashes_not_of_order_and_comments(listed):
    content = read_hash_list(listed(f"{A}\n{B}\n", "1")).content
    assert read_hash_list(listed(f"{B}\n# more\n{A}\n{A}\n", "2")).content == content
    assert read_hash_list(listed(f"{A}\n", "3")).content != content


def test_list_is_read_anew_when_it_changes(listed):
    assert len(read_hash_list(listed(f"{A}\n")).sha256) == 1
    assert len(read_hash_list(listed(f"{A}\n{B}\n")).sha256) == 2


def test_parquet_with_either_column_or_both_and_nulls(tmp_path):
    both = read_hash_list(parquet(tmp_path, sha256=pa.array([A, None]), phash=pa.array([None, 2**63], pa.uint64())))
    assert (both.sha256.to_pylist(), both.phash.tolist()) == ([A], [2**63])
    text = read_hash_list(parquet(tmp_path, phash=pa.array(["80000000000000FF", None, None])))
    assert (text.sha256.to_pylist(), text.phash.tolist()) == ([], [2**63 + 255])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{A}\n\nnothing\n", r"list\.txt, line 3: 'nothing' is no hash\. Allowed on a line: a SHA-256 \(64 hex"),
        (A[1:], "line 1: 'a+' is no hash"),
        (f"{A},{B}", "line 1: .* is no hash"),
        (f"{B[:15]}g", "line 1: '0123456789abcdeg' is no hash"),
        (b"\xff\xfe\x00", "neither Parquet nor UTF-8 text"),
        (b"PAR1 and no more", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_list_is_told_with_its_line(listed, content, said):
    with pytest.raises(ConfigError, match=said):
        read_hash_list(listed(content))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"md5": pa.array(["x"])}, "should have a column sha256 or phash; it has md5"),
        ({"sha256": pa.array([A, "zz"])}, "column sha256, row 1: 'zz' should be 64 hexadecimal digits"),
        ({"sha256": pa.array([1])}, "column sha256: it should hold text of 64 hexadecimal digits, not int64"),
        ({"phash": pa.array([-1])}, r"column phash \(which may also be uint64\): .* 16 hexadecimal digits, not int64"),
    ],
)
def test_wrong_columns_are_told(tmp_path, columns, said):
    with pytest.raises(ConfigError, match=said):
        read_hash_list(parquet(tmp_path, **columns))


def test_list_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"no blocklist .*/gone\.txt, which the policy names"):
        read_hash_list(str(tmp_path / "gone.txt"))


def test_match_says_which_list_and_by_what(listed):
    one = read_hash_list(listed(f"{A}\n00000000000000ff\n", "one"))
    two = read_hash_list(listed(f"{B}\n{A}\n", "two"))
    table = samples((A, 0, 0.5), (B, 0xFF, 0.5), (B, 0, 0.5), ("c" * 64, 0xF8, 0.5), ("c" * 64, 0xF0, 0.5))
    assert blocked(table, [one, two], 3) == [
        f"on the blocklist {one.url}: equal bytes",
        f"on the blocklist {one.url}: 0 of 64 bits differ from 00000000000000ff",
        f"on the blocklist {two.url}: equal bytes",
        f"on the blocklist {one.url}: 3 of 64 bits differ from 00000000000000ff",
        None,
    ]
    assert blocked(table, [one, two], None)[3] is None


def test_flat_image_is_not_blocked_by_its_hash_nor_one_without(listed):
    zero = read_hash_list(listed("0" * 16))
    assert blocked(samples((B, 0, 0.009), (None, None, None), (None, 0, 0.5)), [zero], 4)[:2] == [None, None]
    assert blocked(samples((None, 0, 0.5)), [zero], 4) != [None]


def test_empty_list_blocks_nothing(listed):
    nothing = read_hash_list(listed("# nothing yet\n"))
    assert blocked(samples((A, 0, 0.5)), [nothing], 16) == [None]
    assert nothing.phash.dtype == np.uint64
