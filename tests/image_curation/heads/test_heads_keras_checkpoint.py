"""The TensorFlow file reader: right on the originals, and WeightsError on whatever is damaged, never anything else."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_curation.errors import WeightsError
from image_curation.heads import keras_checkpoint
from image_curation.heads.keras_checkpoint import DATA, GRAPH, INDEX, SavedModel, read_saved_model
from image_curation.heads.leveldb_table import TRAILER_BYTES, crc32c, masked_crc32c, read_table
from image_curation.heads.protobuf import chunks, integer, read_message, read_varint

FOLDERS = {"l14": "clip_autokeras_binary_nsfw", "b32": "clip_autokeras_nsfw_b32"}
FUZZ = settings(
    max_examples=120, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def original(heads_data) -> bytes:
    return (heads_data / "nsfw" / "clip_autokeras_nsfw_b32.zip").read_bytes()


@pytest.fixture(scope="module")
def members(original) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        return {name: archive.read(f"clip_autokeras_nsfw_b32/{name}") for name in (INDEX, DATA, GRAPH)}


@pytest.fixture(scope="module")
def expected(original) -> SavedModel:
    return read_saved_model(original, "b32.zip")


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED, folder: str = "model/") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(folder + name, data)
    return file.getvalue()


def damaged(data: bytes, damage: list[tuple[float, int]], start: int = 0, end: int | None = None) -> bytes:
    """Overwrite bytes: each (place as a share of the range, new value)."""
    result = bytearray(data)
    stop = len(data) if end is None else end
    for share, value in damage:
        result[start + int(share * (stop - start))] = value
    return bytes(result)


def sealed(index: bytes, damage: list[tuple[float, int]]) -> bytes:
    """Damage the data block of an index and give it a new checksum, so that the parser behind it is reached."""
    size = read_varint(index, len(index) - 48)[0] - TRAILER_BYTES  # the meta index comes right after the only block
    block = damaged(index[: size + 1], damage, end=size)
    return block + masked_crc32c(block).to_bytes(4, "little") + index[size + TRAILER_BYTES :]


def assert_same(model: SavedModel, expected: SavedModel) -> None:
    assert model.vocabularies == expected.vocabularies
    assert model.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(model.tensors[name], tensor)


@pytest.mark.parametrize("size", ["l14", "b32"])
def test_every_array_and_vocabulary_of_the_originals(heads_data, size):
    model = read_saved_model((heads_data / "nsfw" / f"{FOLDERS[size]}.zip").read_bytes(), FOLDERS[size])
    arrays = np.load(heads_data / "nsfw" / f"nsfw_{size}_weights.npz")
    names = {"mean": "layer_with_weights-1/mean", "variance": "layer_with_weights-1/variance"}
    for layer in range(4 if size == "l14" else 3):
        names |= {
            f"w{layer}": f"layer_with_weights-{layer + 2}/kernel",
            f"b{layer}": f"layer_with_weights-{layer + 2}/bias",
        }
    columns = arrays["cat_cols"].tolist()
    vocabularies = {name for column in columns for name in (f"vocab_{column}", f"vocabidx_{column}")}
    assert set(arrays.files) == {*names, "cat_cols", *vocabularies}
    for short, name in names.items():
        assert model.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(model.tensors[name], arrays[short])
    assert list(model.vocabularies) == columns
    for column in columns:
        pairs = zip(arrays[f"vocab_{column}"].tolist(), arrays[f"vocabidx_{column}"].tolist(), strict=True)
        assert list(model.vocabularies[column].items()) == list(pairs)
    metrics = {f"keras_api/metrics/{number}/{part}" for number in (0, 1) for part in ("count", "total")}
    assert model.tensors.keys() == {*names.values(), *metrics}


def test_vectors_of_crc32c():
    """RFC 3720, appendix B.4, and the catalogue's check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


def table_of(entries: bytes, restarts: int = 1, compression: int = 0, magic: int = 0xDB4775248B80FB57) -> bytes:
    """A table with one data block, written by hand: entries, one restart at 0, trailer, meta index, index, footer."""

    def block(content: bytes, kind: int = 0) -> bytes:
        return content + bytes([kind]) + masked_crc32c(content + bytes([kind])).to_bytes(4, "little")

    tail = (0).to_bytes(4, "little") + restarts.to_bytes(4, "little")
    data = block(entries + tail, compression)
    meta = block(tail[:4] + (1).to_bytes(4, "little"))
    handle = bytes([0, len(data) - 5])
    index = block(bytes([0, 1, len(handle)]) + b"z" + handle + tail[:4] + (1).to_bytes(4, "little"))
    assert len(data) < 128
    assert len(data) + len(meta) < 128
    places = bytes([len(data), len(meta) - 5, len(data) + len(meta), len(index) - 5])
    return data + meta + index + places.ljust(40, b"\0") + magic.to_bytes(8, "little")


ENTRIES = b"\x00\x03\x01dog1" + b"\x02\x02\x02or22"  # "door" shares two bytes with "dog"


def test_table_written_by_hand():
    assert read_table(table_of(ENTRIES)) == {b"dog": b"1", b"door": b"22"}
    assert read_table(table_of(b"")) == {}


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (table_of(ENTRIES)[:-1], "no footer"),
        (table_of(ENTRIES, magic=1), "no footer"),
        (b"", "no footer"),
        (table_of(ENTRIES, compression=1), "compressed with Snappy, which is not supported"),
        (table_of(ENTRIES, compression=7), "compressed with method 7"),
        (table_of(ENTRIES, restarts=1000), "1000 restart points do not fit"),
        (table_of(b"\x02\x01\x00a"), "shares 2 of 3 bytes with one of 0"),
        (table_of(b"\x00\x01\x00b" + b"\x00\x01\x00a"), "b'a' does not come after b'b'"),
        (table_of(b"\x00\x01\x00a" + b"\x01\x00\x00"), "b'a' does not come after b'a'"),
        (table_of(b"\x00\x01\x09ab"), "run over the end"),
        (table_of(b"\x00\x09\x01ab"), "run over the end"),
        (table_of(b"\x00\x80\x80\x02\x01ab"), "shares 0 of 32768 bytes"),
        (table_of(b"\x80" * 12), "more than ten bytes"),
        (table_of(b"\x00\x01"), "a number runs over the end"),
        (table_of(ENTRIES).replace(b"dog", b"cog"), "does not match its checksum"),
    ],
)
def test_damaged_table_says_what_is_wrong(table, text):
    with pytest.raises(ValueError, match=text):
        read_table(table)


def test_table_that_names_one_block_twice_is_refused():
    whole = table_of(b"")
    data = whole[:13]
    handle = bytes([0, 8])
    entry = bytes([0, 1, 2]) + b"y" + handle + bytes([0, 1, 2]) + b"z" + handle
    content = entry + (0).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"\0"
    index = content + masked_crc32c(content).to_bytes(4, "little")
    places = bytes([0, 8, len(data), len(index) - 5])
    table = data + index + places.ljust(40, b"\0") + whole[-8:]
    with pytest.raises(ValueError, match="block at byte 0 begins before the end of the one before, 8"):
        read_table(table)


def test_messages_from_the_protocol_buffer_documentation():
    assert read_message(bytes.fromhex("089601")) == {1: [150]}
    assert read_message(b"\x12\x07testing") == {2: [b"testing"]}
    assert read_message(b"\x35\x01\x02\x00\x00\x39\x03" + bytes(7)) == {6: [513], 7: [3]}
    message = read_message(b"\x08\x01\x08\x02\x12\x01a\x12\x01b")
    assert integer(message, 1) == 2
    assert integer(message, 9) == 0
    assert chunks(message, 2) == [b"a", b"b"]
    assert chunks(message, 9) == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x12\x05abcd", "run over the end"),
        (b"\x08", "runs over the end"),
        (b"\x35\x01", "run over the end"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x08" + b"\xff" * 10, "more than ten bytes"),
    ],
)
def test_malformed_message_is_refused(data, text):
    with pytest.raises(ValueError, match=text):
        read_message(data)


def test_field_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match="field 1 holds bytes where a number belongs"):
        integer(read_message(b"\x0a\x01a"), 1)
    with pytest.raises(ValueError, match="field 1 holds a number where bytes belong"):
        chunks(read_message(b"\x08\x01"), 1)


def test_zip_without_folder_or_compression_reads_the_same(members, expected):
    assert_same(read_saved_model(zipped(members), "b32.zip"), expected)
    assert_same(read_saved_model(zipped(members, folder=""), "b32.zip"), expected)


@pytest.mark.parametrize("absent", [INDEX, DATA, GRAPH])
def test_zip_without_a_member_is_refused(members, absent):
    with pytest.raises(WeightsError, match=f"b32.zip is not a whole Keras model: the zip holds 0 members {absent}"):
        read_saved_model(zipped({name: data for name, data in members.items() if name != absent}), "b32.zip")


def test_zip_with_two_models_is_refused(members):
    with pytest.raises(WeightsError, match=r"the zip holds 2 members variables/variables\.index, not 1"):
        read_saved_model(zipped({**members, "other/" + INDEX: b""}), "b32.zip")


def test_member_that_would_unpack_to_too_much_is_refused_unread(members, monkeypatch):
    monkeypatch.setattr(keras_checkpoint, "MAX_MEMBER_BYTES", 1 << 20)
    bomb = zipped({**members, DATA: bytes(5 << 20)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    with pytest.raises(WeightsError, match=f"{DATA} has 5242880 bytes, more than the 1048576 allowed"):
        read_saved_model(bomb, "b32.zip")


def test_other_compression_is_refused(members):
    with pytest.raises(
        WeightsError, match=r"variables.index is encrypted or compressed by a method other than deflate"
    ):
        read_saved_model(zipped(members, zipfile.ZIP_BZIP2), "b32.zip")


def test_no_zip_is_refused():
    with pytest.raises(WeightsError, match=r"b32\.zip is not a whole Keras model: File is not a zip file"):
        read_saved_model(b"hello", "b32.zip")


def test_zip_cut_short_anywhere_is_refused(original):
    lengths = range(0, len(original), 4999)
    assert len(lengths) > 40
    for length in lengths:
        with pytest.raises(WeightsError, match=r"b32.zip is not a whole Keras model: .* Remove it and fetch it again"):
            read_saved_model(original[:length], "b32.zip")


def test_index_cut_short_anywhere_is_refused(members):
    for length in range(0, len(members[INDEX]), 19):
        with pytest.raises(WeightsError, match="no footer"):
            read_saved_model(zipped({**members, INDEX: members[INDEX][:length]}), "b32.zip")


def test_weights_cut_short_are_refused(members):
    with pytest.raises(WeightsError, match=r"lies at bytes \d+ to \d+, but the data end at 70000"):
        read_saved_model(zipped({**members, DATA: members[DATA][:70000]}), "b32.zip")


def test_one_flipped_bit_in_the_weights_is_found(members):
    data = bytearray(members[DATA])
    data[1234] ^= 1
    with pytest.raises(WeightsError, match=r"layer_with_weights-1/mean\S* does not match its checksum"):
        read_saved_model(zipped({**members, DATA: bytes(data)}), "b32.zip")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (b"\x08\x01\x12\x04\x12\x02\x08\x03\x28\x08", r"has 8 bytes, but its shape \(3,\) needs 12"),
        (b"\x08\x01\x18\x01\x28\x04", "spread over several files or slices"),
        (b"\x08\x01\x28\x04\x3a\x00", "spread over several files or slices"),
        (b"\x08\x01\x20\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x28\x04", "but the data end at 4"),
        (b"\x08\x01\x12\x0d\x12\x0b\x08" + b"\xff" * 9 + b"\x01", r"shape \(18446744073709551615,\) needs"),
        (b"\x08\x01\x12\x11\x12\x02\x08\x00\x12\x0b\x08" + b"\xff" * 9 + b"\x01", "b.zip is not a whole"),
        (b"\x08\x01\x28\x04", "does not match its checksum"),
    ],
    ids=["size", "other file", "slices", "offset", "huge axis", "no elements of a huge axis", "no checksum"],
)
def test_malformed_tensor_entry_is_refused(members, entry, text):
    key = b"w/.ATTRIBUTES/VARIABLE_VALUE"
    entries = b"\x00\x00\x02\x08\x01" + bytes([0, len(key), len(entry)]) + key + entry
    index = table_of(entries)
    with pytest.raises(WeightsError, match=text):
        read_saved_model(zipped({INDEX: index, DATA: bytes(4), GRAPH: members[GRAPH]}), "b.zip")


def test_bundle_of_several_files_or_without_header_is_refused(members):
    for entries in (b"", b"\x00\x00\x02\x08\x02", b"\x00\x00\x04\x08\x01\x10\x01"):
        with pytest.raises(WeightsError, match="the bundle is not one little-endian file"):
            read_saved_model(zipped({**members, INDEX: table_of(entries)}), "b.zip")


def test_graph_with_another_number_of_tables_is_refused(members):
    index = table_of(b"\x00\x00\x02\x08\x01")
    with pytest.raises(WeightsError, match="the graph fills 3 lookup tables for 0 categorical columns"):
        read_saved_model(zipped({**members, INDEX: index}), "b.zip")


@FUZZ
@given(damage=DAMAGE)
def test_damaged_index_is_refused_or_harmless(members, expected, damage):
    """Checksums cover all that is read, so damage can be refused or lie where nothing is read: no third outcome."""
    try:
        model = read_saved_model(zipped({**members, INDEX: damaged(members[INDEX], damage)}), "b32.zip")
    except WeightsError:
        return
    assert_same(model, expected)


@FUZZ
@given(damage=DAMAGE)
def test_damaged_index_with_right_checksums_is_read_or_refused(members, damage):
    try:
        model = read_saved_model(zipped({**members, INDEX: sealed(members[INDEX], damage)}), "b32.zip")
    except WeightsError:
        return
    assert all(tensor.size <= len(members[DATA]) for tensor in model.tensors.values())


def test_resealing_an_undamaged_index_changes_nothing(members):
    assert sealed(members[INDEX], [(0.0, members[INDEX][0])]) == members[INDEX]


@FUZZ
@given(damage=DAMAGE)
def test_damaged_graph_is_read_or_refused(members, damage):
    try:
        model = read_saved_model(zipped({**members, GRAPH: damaged(members[GRAPH], damage, end=80_000)}), "b32.zip")
    except WeightsError:
        return
    assert list(model.vocabularies) == [92, 133, 312]


@FUZZ
@given(damage=DAMAGE, tail=st.booleans())
def test_damaged_zip_is_refused_or_harmless(original, expected, damage, tail):
    """Half of the damage goes to the directory at the end, which decides where and how members are read."""
    start = len(original) - 900 if tail else 0
    try:
        model = read_saved_model(damaged(original, damage, start=start), "b32.zip")
    except WeightsError:
        return
    assert_same(model, expected)


@FUZZ
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(members, data):
    for name in (INDEX, DATA, GRAPH):
        with pytest.raises(WeightsError):
            read_saved_model(zipped({**members, name: data}), "b32.zip")
    with pytest.raises(WeightsError):
        read_saved_model(data, "b32.zip")
