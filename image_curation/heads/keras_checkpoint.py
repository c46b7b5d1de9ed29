"""Turns a zipped Keras model (TensorFlow SavedModel) into its weights and category vocabularies, without TensorFlow.

The weights are a tensor bundle: `variables.index`, a table from name to dtype, shape, place and checksum, and
`variables.data-00000-of-00001`, the raw little-endian numbers. Vocabularies of StringLookup layers are no variables:
they are constants in the graph (`saved_model.pb`), fed to the nodes that fill the lookup tables. Field numbers are from
TensorFlow's tensor_bundle, saved_model, meta_graph, graph, node_def, attr_value, tensor and tensor_shape.proto.
"""

import io
import math
import re
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_curation.errors import WeightsError
from image_curation.heads.leveldb_table import masked_crc32c, read_table
from image_curation.heads.protobuf import Message, chunks, integer, read_message

INDEX = "variables/variables.index"
DATA = "variables/variables.data-00000-of-00001"
GRAPH = "saved_model.pb"
MAX_MEMBER_BYTES = 64 << 20

DT_FLOAT, DT_STRING, DT_INT64 = 1, 7, 9
VARIABLE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
LOOKUP_TABLE = re.compile(r"layer_with_weights-\d+/encoding_layers/(\d{1,6})/token_counts/\.ATTRIBUTES/table-keys")


@dataclass(frozen=True)
class SavedModel:
    """What a Keras model learnt.

    tensors: name in the object graph, like `layer_with_weights-2/kernel` -> float32 array.
    vocabularies: input column -> printed value -> index, for columns that are looked up as categories.
    """

    tensors: dict[str, npt.NDArray[np.float32]]
    vocabularies: dict[int, dict[str, int]]


def read_saved_model(data: bytes, name: str) -> SavedModel:
    """Read a zipped SavedModel; only three members are read, none is written to disk.

    Args:
        data: the zip file.
        name: what messages call it.

    Raises:
        WeightsError: the file is damaged, incomplete or of another kind.
    """
    try:
        members = _read_members(data, (INDEX, DATA, GRAPH))
        index = read_table(members[INDEX])
        return SavedModel(_read_tensors(index, members[DATA]), _read_vocabularies(index, members[GRAPH]))
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, OverflowError) as error:
        raise WeightsError(f"{name} is not a whole Keras model: {error}. Remove it and fetch it again.") from error


def _read_members(data: bytes, wanted: tuple[str, ...]) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {member: _read_member(archive, member) for member in wanted}


def _read_member(archive: zipfile.ZipFile, wanted: str) -> bytes:
    """A member by its path below the model's folder. zipfile never returns more than the declared size."""
    found = [info for info in archive.infolist() if ("/" + info.filename).endswith("/" + wanted)]
    if len(found) != 1:
        raise ValueError(f"the zip holds {len(found)} members {wanted}, not 1")
    info = found[0]
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{wanted} is encrypted or compressed by a method other than deflate")
    if info.file_size > MAX_MEMBER_BYTES:
        raise ValueError(f"{wanted} has {info.file_size} bytes, more than the {MAX_MEMBER_BYTES} allowed")
    return archive.read(info)


def _read_tensors(index: dict[bytes, bytes], data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """All float variables of a bundle. The empty key holds the bundle's header."""
    header = read_message(index.get(b"", b""))
    if integer(header, 1) != 1 or integer(header, 2) != 0:
        raise ValueError("the bundle is not one little-endian file")
    tensors = {}
    for key, raw_entry in index.items():
        name = key.decode("utf-8")
        entry = read_message(raw_entry)
        if name.endswith(VARIABLE_SUFFIX) and integer(entry, 1) == DT_FLOAT:
            tensors[name.removesuffix(VARIABLE_SUFFIX)] = _read_tensor(name, entry, data)
    return tensors


def _read_tensor(name: str, entry: Message, data: bytes) -> npt.NDArray[np.float32]:
    """BundleEntryProto: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 6 checksum, 7 slices of a partitioned tensor."""
    shape = _read_shape(entry)
    offset, size = integer(entry, 4), integer(entry, 5)
    if integer(entry, 3) != 0 or 7 in entry:
        raise ValueError(f"{name} is spread over several files or slices")
    if size != 4 * math.prod(shape):
        raise ValueError(f"{name} has {size} bytes, but its shape {shape} needs {4 * math.prod(shape)}")
    raw = data[offset : offset + size]
    if len(raw) != size:
        raise ValueError(f"{name} lies at bytes {offset} to {offset + size}, but the data end at {len(data)}")
    if masked_crc32c(raw) != integer(entry, 6):
        raise ValueError(f"{name} does not match its checksum")
    return np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)


def _read_shape(message: Message) -> tuple[int, ...]:
    """Field 2 of a bundle entry or tensor, a TensorShapeProto: 2 dimensions, each with 1 its size."""
    shapes = chunks(message, 2)
    dimensions = chunks(read_message(shapes[-1]), 2) if shapes else []
    return tuple(integer(read_message(dimension), 1) for dimension in dimensions)


def _read_vocabularies(index: dict[bytes, bytes], graph: bytes) -> dict[int, dict[str, int]]:
    """Pair the n-th categorical column with the n-th lookup table that the graph fills: Keras builds both in order."""
    found = [LOOKUP_TABLE.fullmatch(key.decode("utf-8")) for key in index]
    columns = sorted(int(match[1]) for match in found if match)
    tables = _read_lookup_tables(graph)
    if len(tables) != len(columns):
        raise ValueError(f"the graph fills {len(tables)} lookup tables for {len(columns)} categorical columns")
    return dict(zip(columns, tables, strict=True))


def _read_lookup_tables(graph: bytes) -> list[dict[str, int]]:
    """Printed value -> index of each lookup table, in the order of the nodes that fill them.

    Such a node has three inputs: the table, a string constant with the keys, an int64 constant with the values. The
    function library (most of the file) is not parsed.
    """
    (meta_graph,) = chunks(read_message(graph), 2)
    (graph_def,) = chunks(read_message(meta_graph), 2)
    nodes = [read_message(raw) for raw in chunks(read_message(graph_def), 1)]
    constants = {chunks(node, 1)[0]: node for node in nodes if chunks(node, 2) == [b"Const"] and chunks(node, 1)}
    tables = []
    for node in nodes:
        inputs = chunks(node, 3)
        if len(inputs) != 3 or inputs[1] not in constants or inputs[2] not in constants:
            continue
        keys, values = _read_constant(constants[inputs[1]]), _read_constant(constants[inputs[2]])
        if integer(keys, 1) == DT_STRING and integer(values, 1) == DT_INT64:
            tables.append(_read_lookup_table(keys, values))
    return tables


def _read_constant(node: Message) -> Message:
    """A Const node's TensorProto: attribute (5) `value`, of which field 8 is the tensor."""
    for attribute in chunks(node, 5):
        entry = read_message(attribute)
        if chunks(entry, 1) == [b"value"] and chunks(entry, 2):
            return read_message(b"".join(chunks(read_message(chunks(entry, 2)[-1]), 8)))
    raise ValueError("a constant has no value")


def _read_lookup_table(keys: Message, values: Message) -> dict[str, int]:
    """TensorProto: 4 the packed numbers, 8 the strings."""
    names = [raw.decode("utf-8") for raw in chunks(keys, 8)]
    indices = np.frombuffer(b"".join(chunks(values, 4)), dtype="<i8").tolist()
    table = dict(zip(names, indices, strict=True))
    if len(table) != len(names):
        raise ValueError("a lookup table names a category twice")
    return table
