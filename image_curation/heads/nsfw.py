"""Turns CLIP vectors into the probability that an image is not safe for work, with the original LAION heads.

Head: `CLIP-based-NSFW-Detector`, found by AutoKeras: normalization, dense layers with ReLU, a sigmoid. AutoKeras took
some input columns for categories: their value is printed with six decimals and looked up in a vocabulary of the
training data (unknown is 0), and the index is fed in the value's stead. Ports that feed the value are off by up to
0.26. The vocabulary holds fp16 values, so vectors are rounded to fp16 first; there are 65,536 of those, hence a table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from image_curation.errors import WeightsError
from image_curation.heads.files import HeadFile
from image_curation.heads.keras_checkpoint import SavedModel, read_saved_model
from image_curation.heads.rows import AnyFloat, score_rows

NORMALIZATION = "layer_with_weights-1"
KERNEL = re.compile(r"layer_with_weights-(\d+)/kernel")
KERAS_EPSILON = 1e-7  # the smallest standard deviation that Keras divides by

Layer = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class NsfwHead:
    """Categories: column -> index of each fp16 bit pattern, float64 [65536]. Layers: weight [in, out], bias [out]."""

    name: str
    vector_space: str
    weights_sha256: str
    categories: Mapping[int, npt.NDArray[np.float64]]
    layers: tuple[Layer, ...]

    def score(self, vectors: AnyFloat) -> npt.NDArray[np.float32]:
        """Probability in 0..1 for unit vectors [n, d] -> float32 [n]; NaN for a row that is not finite.

        Raises:
            ConfigError: d is not the head's.
        """
        halves = vectors.astype(np.float16, copy=False)
        return score_rows(self.name, len(self.layers[0][0]), halves, self._score_block)

    def _score_block(self, halves: AnyFloat) -> npt.NDArray[np.float64]:
        values = halves.astype(np.float64)
        for column, indices in self.categories.items():
            values[:, column] = indices[np.ascontiguousarray(halves[:, column]).view(np.uint16)]
        for weight, bias in self.layers[:-1]:
            values = np.maximum(values @ weight + bias, 0)
        weight, bias = self.layers[-1]
        return np.asarray(expit(values @ weight + bias)[:, 0])


def read_nsfw_head(data: bytes, file: HeadFile, vector_space: str) -> NsfwHead:
    """Read the zipped Keras model.

    Raises:
        WeightsError: the file is not such a model.
    """
    model = read_saved_model(data, file.file)
    try:
        layers = _layers(model)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{file.file} is not an NSFW head: {error!r}. Fetch it again.") from error
    categories = {column: category_table(vocabulary) for column, vocabulary in model.vocabularies.items()}
    if any(column >= len(layers[0][0]) for column in categories):
        raise WeightsError(
            f"{file.file} has a categorical column beyond its {len(layers[0][0])} inputs. Fetch it again."
        )
    return NsfwHead(file.name, vector_space, file.sha256, categories, layers)


def category_table(vocabulary: Mapping[str, int]) -> npt.NDArray[np.float64]:
    """The index of each fp16 bit pattern, [65536]: print it, look it up, 0 where it is not in the vocabulary."""
    return np.array([vocabulary.get(text, 0) for text in _printed_halves()], dtype=np.float64)


@lru_cache(maxsize=1)
def _printed_halves() -> tuple[str, ...]:
    """Every fp16 value, by bit pattern, as TensorFlow's AsString prints it."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return tuple(f"{value:.6f}" for value in halves.tolist())


def _layers(model: SavedModel) -> tuple[Layer, ...]:
    """The dense layers in order, with the normalization (x - mean) / sqrt(variance) folded into the first."""
    numbers = sorted(int(match[1]) for match in map(KERNEL.fullmatch, model.tensors) if match)
    names = [f"layer_with_weights-{number}" for number in numbers]
    dense = [
        (model.tensors[f"{name}/kernel"].astype(np.float64), model.tensors[f"{name}/bias"].astype(np.float64))
        for name in names
    ]
    mean = model.tensors[f"{NORMALIZATION}/mean"].astype(np.float64)
    variance = model.tensors[f"{NORMALIZATION}/variance"].astype(np.float64)
    kernel, bias = dense[0]
    scaled = kernel / np.maximum(np.sqrt(variance), KERAS_EPSILON)[:, None]
    return ((scaled, bias - mean @ scaled), *dense[1:])
