"""Any ONNX image model becomes an encoder: tiny models with answers computed by hand, and a real one on real photos."""

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_curation.encoders import load_encoder, profile
from image_curation.errors import ConfigError, WeightsError

FLOAT, UINT8, FLOAT16 = 1, 2, 10  # onnx.TensorProto.DataType


def _varint(value):
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        if not value:
            return out + bytes([low])
        out += bytes([low | 0x80])


def _field(number, value):
    """One protobuf field: a whole number, or bytes, text or a message with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _value_info(name, element, shape):
    dims = b"".join(_field(1, _field(1, dim) if isinstance(dim, int) else _field(2, dim)) for dim in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, element) + _field(2, dims)))


def _node(operator, source, target, *attributes):
    return _field(1, _field(1, source) + _field(2, target) + _field(4, operator) + b"".join(attributes))


def _ints(name, values):
    return _field(5, _field(1, name) + b"".join(_field(8, value) for value in values) + _field(20, 7))


def _int(name, value):
    return _field(5, _field(1, name) + _field(3, value) + _field(20, 2))


def _model(nodes, inputs, outputs, extra=b""):
    graph = nodes + _field(2, "g") + extra
    graph += b"".join(_field(11, value) for value in inputs) + b"".join(_field(12, value) for value in outputs)
    return _field(1, 8) + _field(8, _field(2, 13)) + _field(7, graph)


def _mean_model(shape=("N", 3, 8, 8), element=FLOAT, keepdims=0):
    """The mean of each channel [n, 3], and as a second output the same times minus one."""
    axes = [2, 3] if shape[1] == 3 or shape[1] == "C" else [1, 2]
    batch = shape[0]
    out = (batch, 3, 1, 1) if keepdims else (batch, 3)
    nodes = _node("Cast", "pixels", "floats", _int("to", FLOAT))
    nodes += _node("ReduceMean", "floats", "mean", _ints("axes", axes), _int("keepdims", keepdims))
    nodes += _node("Neg", "mean", "negative")
    return _model(
        nodes,
        [_value_info("pixels", element, shape)],
        [_value_info("mean", FLOAT, out), _value_info("negative", FLOAT, out), _value_info("floats", FLOAT, shape)],
    )


@pytest.fixture
def save(tmp_path):
    """Write a model, and its YAML if any, and give the encoder's name."""

    def run(content, yaml=None):
        (tmp_path / "model.onnx").write_bytes(content)
        if yaml is not None:
            (tmp_path / "model.onnx.yaml").write_text(yaml)
        return f"onnx:{tmp_path / 'model.onnx'}"

    return run


PIXELS = np.zeros((5, 8, 8, 3), np.uint8)
PIXELS[:] = [30, 60, 20]
PIXELS[1] = [255, 0, 0]
PIXELS[4, :4] = [0, 0, 40]
# Channel means, of which the unit vectors are what the tiny model should give.
MEANS = np.array([[30, 60, 20], [255, 0, 0], [30, 60, 20], [30, 60, 20], [15, 30, 30]], float)


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("shape", "element", "keepdims"),
    [
        (("N", 3, 8, 8), FLOAT, 0),
        (("N", 8, 8, 3), FLOAT, 0),
        (("N", 3, 8, 8), FLOAT, 1),
        (("N", 3, 8, 8), FLOAT16, 0),
        (("N", 8, 8, 3), UINT8, 0),
        ((1, 3, 8, 8), FLOAT, 0),
        ((2, 3, 8, 8), FLOAT, 0),
        ((16, 8, 8, 3), UINT8, 0),
    ],
)
def test_layouts_types_and_fixed_batches_give_the_same_vectors(save, shape, element, keepdims):
    encoder = load_encoder(profile(save(_mean_model(shape, element, keepdims))))
    vectors = encoder.encode(PIXELS)
    assert (vectors.shape, vectors.dtype, encoder.dim, encoder.profile.size) == ((5, 3), np.float16, 3, 8)
    assert np.abs(vectors - _unit(MEANS)).max() < 1e-3
    assert encoder.encode(PIXELS[:0]).shape == (0, 3)


def test_options_beside_the_file_normalise_and_choose_the_output(save):
    yaml = "scale: 0.5\nmean: [10, 20, 30]\nstd: [1, 2, 4]\noutput: negative\n"
    encoder = load_encoder(profile(save(_mean_model(), yaml)))
    expected = -(MEANS * 0.5 - [10, 20, 30]) / [1, 2, 4]
    assert np.abs(encoder.encode(PIXELS) - _unit(expected)).max() < 1e-3
    assert encoder.preprocessing.endswith("x0.5, mean (10.0, 20.0, 30.0), std (1.0, 2.0, 4.0), nchw, output negative")


def test_without_options_a_warning_tells_what_was_assumed(save, caplog):
    with caplog.at_level(logging.WARNING):
        profile(save(_mean_model()))
    assert "RGB 0..255" in caplog.text
    assert "model.onnx.yaml" in caplog.text


def test_options_supply_what_the_shape_does_not_tell(save):
    name = save(_mean_model(("N", "C", "H", "W")))
    with pytest.raises(ConfigError, match=r"does not tell its layout.*`layout: nchw`"):
        profile(name)
    save(_mean_model(("N", "C", "H", "W")), "layout: nchw")
    with pytest.raises(ConfigError, match=r"not a square of known size.*`size: 224`"):
        profile(name)
    save(_mean_model(("N", "C", "H", "W")), "layout: nchw\nsize: 8")
    assert np.abs(load_encoder(profile(name)).encode(PIXELS) - _unit(MEANS)).max() < 1e-3


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("means: [1, 2, 3]", "means.*Allowed keys: scale, mean"),
        ("mean: [1, 2]", "mean"),
        ("layout: chw", "nchw"),
        ("a: [", "model.onnx.yaml is not valid"),
        ("- 1", "model.onnx.yaml is not valid"),
        ("output: nope", "mean.*negative"),
        ("output: floats", "not one vector an image"),
        ("size: 9", "cannot run on input"),
    ],
)
def test_wrong_options_name_the_key_and_what_is_allowed(save, yaml, told):
    name = save(_mean_model(), yaml)
    with pytest.raises((ConfigError, WeightsError), match=f"(?s){told}"):
        load_encoder(profile(name))


def test_a_zero_vector_becomes_nan_and_the_others_stay(save):
    pixels = PIXELS.copy()
    pixels[2] = 0
    vectors = load_encoder(profile(save(_mean_model()))).encode(pixels)
    assert np.isnan(vectors).all(axis=1).tolist() == [False, False, True, False, False]
    assert np.abs(np.delete(vectors - _unit(MEANS), 2, axis=0)).max() < 1e-3
    with pytest.raises(WeightsError, match="none of the 5 vectors is finite"):
        load_encoder(profile(save(_mean_model()))).encode(pixels * 0)


def test_files_that_are_no_models_are_named(save, tmp_path):
    with pytest.raises(WeightsError, match="there is no weights file"):
        profile(f"onnx:{tmp_path / 'nothing.onnx'}")
    for content in (b"", b"hello", _mean_model()[:60]):
        with pytest.raises(WeightsError, match="cannot load the model"):
            profile(save(content))


def test_two_inputs_or_another_rank_are_refused(save):
    value = _value_info("pixels", FLOAT, ("N", 3, 8, 8))
    two = _model(
        _field(1, _field(1, "pixels") + _field(1, "other") + _field(2, "sum") + _field(4, "Add")),
        [value, _value_info("other", FLOAT, ("N", 3, 8, 8))],
        [_value_info("sum", FLOAT, ("N", 3, 8, 8))],
    )
    with pytest.raises(ConfigError, match="should have one input"):
        profile(save(two))
    flat = _model(
        _node("Neg", "pixels", "out"),
        [_value_info("pixels", FLOAT, ("N", 192))],
        [_value_info("out", FLOAT, ("N", 192))],
    )
    with pytest.raises(ConfigError, match="four dimensions"):
        profile(save(flat))


def test_external_data_is_not_read(save, tmp_path, monkeypatch):
    """A model may name any file as the place of its tensors; ours are read from memory, where that fails."""
    (tmp_path / "secret.bin").write_bytes(struct.pack("<3f", 1, 2, 3))
    monkeypatch.chdir(tmp_path)
    location = _field(13, _field(1, "location") + _field(2, "secret.bin"))
    tensor = _field(1, 1) + _field(1, 3) + _field(2, FLOAT) + _field(8, "w") + location + _field(14, 1)
    nodes = _node("ReduceMean", "pixels", "mean", _ints("axes", [2, 3]), _int("keepdims", 0))
    nodes += _field(1, _field(1, "mean") + _field(1, "w") + _field(2, "out") + _field(4, "Add"))
    model = _model(
        nodes,
        [_value_info("pixels", FLOAT, ("N", 3, 8, 8))],
        [_value_info("out", FLOAT, ("N", 3))],
        extra=_field(5, tensor),
    )
    with pytest.raises(WeightsError, match="without external data"):
        profile(save(model))


def test_checksum_is_that_of_the_file_and_can_be_pinned(save, tmp_path):
    name = save(_mean_model())
    encoder = load_encoder(profile(name))
    path = tmp_path / "model.onnx"
    again = load_encoder(profile(name), weights=f"{path}@sha256:{encoder.weights_sha256}")
    assert again.weights_sha256 == encoder.weights_sha256
    with pytest.raises(WeightsError, match="is pinned"):
        load_encoder(profile(name), weights=f"@sha256:{'0' * 64}")


@pytest.fixture(scope="module")
def mobilenet(shared_data: Path):
    return load_encoder(profile(f"onnx:{shared_data / 'encoder' / 'mobilenet_v2_feat1280_f32.onnx'}"))


def test_real_photos_are_nearest_to_their_own_copies(mobilenet, photos, photo_pixels, prepare):
    """Each photo against its JPEG re-encoding at quality 60 among forty photos."""

    def reencoded(photo):
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=60)
        return prepare(Image.open(buffer))

    originals = mobilenet.encode(photo_pixels[:40])
    copies = mobilenet.encode(np.stack([reencoded(photo) for photo in photos[:40]]))
    assert originals.shape == (40, 1280)
    lengths = np.linalg.norm(originals.astype(np.float32), axis=1)
    assert np.abs(lengths - 1).max() < 1e-3
    cosines = copies.astype(np.float32) @ originals.astype(np.float32).T
    assert (cosines.argmax(axis=1) == np.arange(40)).all()
    threshold = mobilenet.profile.duplicate_similarity
    assert (np.diag(cosines) > threshold).mean() >= 0.95
    assert (originals.astype(np.float32) @ originals.astype(np.float32).T)[np.triu_indices(40, 1)].max() < threshold


def test_real_model_gives_a_photo_the_same_vector_alone_and_in_a_batch(mobilenet, photo_pixels):
    together, alone = mobilenet.encode(photo_pixels[:3]), mobilenet.encode(photo_pixels[1:2])
    assert np.abs(together[1:2].astype(np.float32) - alone).max() < 1e-3
