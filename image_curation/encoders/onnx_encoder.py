"""Turns any ONNX file with one image input into an encoder.

A file says neither which range of values its input takes nor how it is normalised. A YAML file beside it does, named
like it with `.yaml` at the end (`model.onnx.yaml`); every key may be left out:

    scale: 0.00392157              # pixels 0..255 are first multiplied by this      (1)
    mean: [0.485, 0.456, 0.406]    # then this is subtracted, for R, G, B            (0, 0, 0)
    std: [0.229, 0.224, 0.225]     # and the rest divided by this                    (1, 1, 1)
    output: features               # which output is the vector                      (the first one)
    layout: nchw                   # or nhwc                                         (read from the input's shape)
    size: 224                      # side of the input in pixels                     (read from the input's shape)

Without that file the model gets pixels as they are, RGB 0..255, and a warning says so. What the shape does not tell has
to be in the file. Models are read from memory: custom operators and external data files are not loaded.
"""

import hashlib
import logging
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import yaml
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from pydantic import BaseModel, ConfigDict, ValidationError

from image_curation.encoders.base import GEOMETRY, Pixels, Profile, check_pixels, in_batches, to_host, unit_rows
from image_curation.encoders.weights import Request, local_file
from image_curation.errors import ConfigError, WeightsError

logger = logging.getLogger(__name__)

_BATCH = 32  # for models that take any number of images
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
# onnxruntime's exceptions have no common base but Exception.
_ORT_ERRORS = (
    ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented, ort_errors.RuntimeException,
)  # fmt: skip


class OnnxOptions(BaseModel):
    """The YAML file beside a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    output: str | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    size: int | None = None


class OnnxEncoder:
    """An ONNX model; on the CPU, or on a GPU where onnxruntime was built for one."""

    def __init__(self, profile: Profile, device: str, request: Request) -> None:
        path = request.path or profile.model
        file = local_file(Request(path, request.sha256), profile.name)
        content = file.path.read_bytes()
        self._options = read_options(file.path)
        self._session = _session(content, profile.name, device)
        self._input = self._session.get_inputs()[0]
        self._layout, size = _layout_and_size(self._input.shape, self._options, profile.name)
        self._type = _INPUT_TYPES[self._input.type]
        self._output = _output_name(self._session, self._options, profile.name)
        fixed = self._input.shape[0]
        self._pad = isinstance(fixed, int)
        self.batch = fixed if isinstance(fixed, int) else _BATCH
        black = np.zeros((self.batch if self._pad else 1, size, size, 3), np.uint8)
        self.dim = self._forward(black).shape[1]
        self.profile = replace(profile, size=size, dim=self.dim, dtype="fp32")
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        options = self._options
        self.preprocessing = (
            f"{GEOMETRY.format(size=size)}; x{options.scale:g}, mean {options.mean}, std {options.std}, "
            f"{self._layout}, output {self._output}"
        )

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float16]:
        """See `Encoder.encode`."""
        check_pixels(pixels, self.profile.size)
        features = in_batches(to_host(pixels), self.batch, self._forward, self.dim, pad=self._pad)
        return unit_rows(features, self.profile.name)

    def _forward(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating[Any]]:
        """uint8 [n, size, size, 3] -> the model's output as [n, d]."""
        images: npt.NDArray[Any] = pixels
        if self._type is not np.uint8:
            mean, std = np.array(self._options.mean, np.float32), np.array(self._options.std, np.float32)
            images = ((pixels.astype(np.float32) * np.float32(self._options.scale) - mean) / std).astype(self._type)
        if self._layout == "nchw":
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        try:
            features: npt.NDArray[np.floating[Any]] = self._session.run([self._output], {self._input.name: images})[0]
        except _ORT_ERRORS as error:
            raise WeightsError(f"the ONNX model cannot run on input {list(images.shape)}: {error}") from error
        if len(features) != len(pixels) or math.prod(features.shape[2:]) != 1:
            raise ConfigError(
                f"output {self._output!r} has the shape {list(features.shape)}, not one vector an image [n, d]. "
                f"Name another one as `output` in the YAML file beside the model; there are: {_names(self._session)}."
            )
        return features.reshape(len(features), -1)


def read_options(model: Path) -> OnnxOptions:
    """The options in `MODEL.yaml`, or the defaults with a warning where that file is absent.

    Raises:
        ConfigError: the file is no YAML, or has a key or value that is not allowed.
    """
    path = model.with_name(model.name + ".yaml")
    if not path.is_file():
        logger.warning(
            "%s is not there, so %s gets pixels as they are, RGB 0..255. If it was trained on other values, write its "
            "scale, mean and std into that file.", path, model.name
        )  # fmt: skip
        return OnnxOptions()
    try:
        return OnnxOptions.model_validate(yaml.safe_load(path.read_text()) or {})
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        allowed = ", ".join(OnnxOptions.model_fields)
        raise ConfigError(f"{path} is not valid: {error}\nAllowed keys: {allowed}.") from error


def input_size(path: str, name: str) -> int:
    """The side of the model's input in pixels, from its YAML file or its graph.

    Raises:
        ConfigError: neither says it.
        WeightsError: there is no such file, or it is no ONNX model.
    """
    file = local_file(Request(path), name)
    session = _session(file.path.read_bytes(), name, "cpu")
    return _layout_and_size(session.get_inputs()[0].shape, read_options(file.path), name)[1]


def _session(content: bytes, name: str, device: str) -> ort.InferenceSession:
    """A session over a model in memory, with OMP_NUM_THREADS threads as in torch, or one for each core it may use."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    settings.log_severity_level = 3
    try:
        session = ort.InferenceSession(content, settings, providers=_providers(device, name))
    except _ORT_ERRORS as error:
        raise WeightsError(
            f"encoder {name}: onnxruntime {ort.__version__} cannot load the model: {error} "
            "It has to be one .onnx file, without external data or custom operators."
        ) from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _INPUT_TYPES:
        found = ", ".join(f"{item.name}: {item.type} {item.shape}" for item in inputs)
        allowed = ", ".join(_INPUT_TYPES)
        raise ConfigError(f"encoder {name}: the model should have one input of type {allowed}; it has {found}.")
    return session


def _providers(device: str, name: str) -> list[str]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        logger.warning("encoder %s runs on the CPU: this onnxruntime has no CUDA (install onnxruntime-gpu).", name)
        return ["CPUExecutionProvider"]
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _layout_and_size(shape: list[Any], options: OnnxOptions, name: str) -> tuple[str, int]:
    """Read layout and size from a shape such as ['N', 3, 224, 224]; the options go before it."""
    if len(shape) != 4:
        raise ConfigError(f"encoder {name}: the model's input {shape} is not a batch of images with four dimensions.")
    guess = [layout for layout, channels in (("nchw", 1), ("nhwc", 3)) if shape[channels] == 3]
    layout = options.layout or (guess[0] if len(guess) == 1 else None)
    if layout is None:
        raise ConfigError(f"encoder {name}: the input {shape} does not tell its layout. {_write('layout: nchw')}")
    height, width = shape[2:4] if layout == "nchw" else shape[1:3]
    size = options.size or (height if isinstance(height, int) and height == width else None)
    if size is None:
        raise ConfigError(f"encoder {name}: the input {shape} is not a square of known size. {_write('size: 224')}")
    return layout, size


def _write(line: str) -> str:
    return f"Write `{line}` (or what is right) into the YAML file beside the model."


def _output_name(session: ort.InferenceSession, options: OnnxOptions, name: str) -> str:
    names = [output.name for output in session.get_outputs()]
    if options.output and options.output not in names:
        raise ConfigError(f"encoder {name}: the model has no output {options.output!r}; it has {_names(session)}.")
    return options.output or names[0]


def _names(session: ort.InferenceSession) -> str:
    return ", ".join(f"{output.name} {output.shape}" for output in session.get_outputs())
