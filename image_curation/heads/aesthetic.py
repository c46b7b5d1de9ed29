"""Turns CLIP vectors into aesthetic ratings (about 1 to 10) with the original LAION heads.

Heads: `improved-aesthetic-predictor` (five linear layers, trained on SAC, logos and AVA; LAION-Aesthetics v2) and
`aesthetic-predictor` (one linear layer; v1). Neither has an activation, and dropout does nothing at inference, so
either is one affine map.
"""

import io
import pickle
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from image_curation.errors import WeightsError
from image_curation.heads.files import HeadFile
from image_curation.heads.rows import AnyFloat, score_rows

Layer = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class AestheticHead:
    """One affine map: weight float64 [d], bias."""

    name: str
    vector_space: str
    weights_sha256: str
    weight: npt.NDArray[np.float64]
    bias: float

    def score(self, vectors: AnyFloat) -> npt.NDArray[np.float32]:
        """Rate unit vectors [n, d] -> float32 [n]; NaN for a row that is not finite.

        Raises:
            ConfigError: d is not the head's.
        """
        return score_rows(self.name, len(self.weight), vectors, self._score_block)

    def _score_block(self, vectors: AnyFloat) -> npt.NDArray[np.float64]:
        return np.asarray(vectors.astype(np.float64) @ self.weight + self.bias)


def read_aesthetic_head(data: bytes, file: HeadFile, vector_space: str) -> AestheticHead:
    """Read a PyTorch state dict and fold its layers; only tensors are unpickled, no code is run.

    Folded in float64; run layer by layer in float32, as the original is, ratings differ by that rounding, below 1e-6.

    Raises:
        WeightsError: the file is no such state dict.
    """
    weight, bias = fold_layers(_read_layers(data, file.file), file.file)
    return AestheticHead(file.name, vector_space, file.sha256, weight, bias)


def fold_layers(layers: list[Layer], name: str) -> tuple[npt.NDArray[np.float64], float]:
    """Compose linear layers, each (weight [out, in], bias [out]), first to last, into the weight [in] and bias of one.

    Raises:
        WeightsError: the layers do not fit each other, or the last has more than one output.
    """
    weight, bias = layers[0]
    for next_weight, next_bias in layers[1:]:
        if next_weight.shape[1] != weight.shape[0]:
            raise WeightsError(f"{name}: a layer with {weight.shape[0]} outputs is followed by {next_weight.shape}")
        weight, bias = next_weight @ weight, next_weight @ bias + next_bias
    if weight.shape[0] != 1:
        raise WeightsError(f"{name}: the last layer has {weight.shape[0]} outputs, not 1")
    return weight[0], float(bias[0])


def _read_layers(data: bytes, name: str) -> list[Layer]:
    """Layers in order. Keys are `weight`, `bias` for a single layer, `layers.<number>.weight`, `.bias` for several."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        prefixes = sorted({str(key).rpartition(".")[0] for key in state}, key=lambda prefix: (len(prefix), prefix))
        layers = [_read_layer(state, prefix + "." if prefix else "") for prefix in prefixes]
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise WeightsError(f"{name} is not a whole state dict of linear layers: {error}. Fetch it again.") from error
    if not layers:
        raise WeightsError(f"{name} holds no layer. Fetch it again.")
    return layers


def _read_layer(state: dict[str, torch.Tensor], prefix: str) -> Layer:
    weight, bias = (state[prefix + part].numpy().astype(np.float64) for part in ("weight", "bias"))
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ValueError(f"layer {prefix!r} has weight {weight.shape} and bias {bias.shape}")
    return weight, bias
