"""What an encoder is: a profile that describes it, and a class that turns pixels into unit vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from image_curation.errors import WeightsError

if TYPE_CHECKING:
    import torch

Kind = Literal["open_clip", "timm", "onnx", "embedded"]
Dtype = Literal["fp32", "bf16", "fp8"]
CpuDtype = Literal["fp32", "bf16"]
Pixels: TypeAlias = "npt.NDArray[np.uint8] | torch.Tensor"
# Every profile's pixels have this geometry: CLIP's, made by the decoder.
GEOMETRY = "short side to {size} px bicubic, centre crop {size}x{size}, RGB"


@dataclass(frozen=True)
class Profile:
    """One encoder by name: what it computes, on what input, and what its vectors can be compared with."""

    name: str
    kind: Kind
    model: str
    """Architecture name, or the path of an ONNX file."""
    pretrained: str | None
    """open_clip's tag of the weights; None where the model's name says it all."""
    dim: int | None
    """Length of a vector; None where only the loaded model knows."""
    size: int
    """Side of the square input in pixels."""
    dtype: Dtype
    """Arithmetic on a GPU. On a CPU it is another, see `dtype_on`, and the profile of a loaded encoder says so."""
    vector_space: str
    """What a score head must have been trained on to accept these vectors; "" where no head can be."""
    duplicate_similarity: float
    """Cosine from which two images are recommended to be taken as duplicates."""
    semantic: bool
    """Whether near vectors mean the same things are shown, and not only the same shapes and colours."""

    @property
    def caution(self) -> str | None:
        """What a user has to know before trusting the vectors, said wherever they look; None where all is well."""
        if self.semantic:
            return None
        return (
            f"The encoder `{self.name}` is not CLIP: its vectors describe shapes and colours, not meaning. There are "
            "no aesthetic and NSFW scores, and only near-copies are found. Use `clip-vit-l-14` for real work."
        )


def dtype_on(profile: Profile, device: str, cpu_dtype: CpuDtype) -> Dtype:
    """What the model of a profile computes in on "cpu", "cuda" or "cuda:N"."""
    return profile.dtype if device.startswith("cuda") or profile.dtype == "fp32" else cpu_dtype


class Encoder(Protocol):
    """A loaded model. `profile` is what runs: its dtype is that of this device. Threads may share one.

    A vector depends on its own image alone, not on those that are encoded with it.
    """

    profile: Profile
    batch: int
    """Images in one pass of the model; lists of whole batches are the fastest."""
    dim: int
    weights_sha256: str
    preprocessing: str

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float16]:
        """Turn uint8 [n, size, size, 3] RGB, in host memory or on the GPU, into fp16 [n, dim] unit vectors on the host.

        A row whose vector is zero or not finite comes back as NaN, for the caller to record as failed.

        Raises:
            WeightsError: no row at all has a finite vector, which no set of images does to a sound model.
        """
        ...


def check_pixels(pixels: Pixels, size: int) -> None:
    """Raise ValueError unless `pixels` is uint8 [n, size, size, 3]."""
    shape, dtype = tuple(pixels.shape), str(pixels.dtype).removeprefix("torch.")
    if dtype != "uint8" or len(shape) != 4 or shape[1:] != (size, size, 3):
        raise ValueError(f"pixels should be uint8 [n, {size}, {size}, 3], not {dtype} {list(shape)}")


def to_host(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """The same pixels as a numpy array."""
    return pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()


def unit_rows(features: npt.NDArray[np.floating[Any]], name: str) -> npt.NDArray[np.float16]:
    """Scale rows [n, d] to length 1 in fp32, then round to fp16: their length is then 1 within 1e-3.

    Rows that are zero or not finite become NaN.

    Raises:
        WeightsError: n > 0 and all rows do. `name` is the encoder in the text.
    """
    values = features.astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        # Scaling by the largest entry first: squares of bf16's range overflow fp32.
        peak = np.abs(values).max(axis=1, keepdims=True, initial=0)
        values = values / peak
        values = values / np.sqrt((values * values).sum(axis=1, keepdims=True))
    bad = ~np.isfinite(values).all(axis=1)
    if len(bad) and bad.all():
        raise WeightsError(
            f"encoder {name}: none of the {len(bad)} vectors is finite, so the model is broken, not the images. "
            "Check its weights file, and try dtype fp32."
        )
    values[bad] = np.nan
    rounded: npt.NDArray[np.float16] = values.astype(np.float16)
    return rounded


def in_batches(
    pixels: npt.NDArray[np.uint8],
    batch: int,
    forward: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.floating[Any]]],
    dim: int,
    pad: bool = False,
) -> npt.NDArray[np.float32]:
    """Apply `forward` to slices of at most `batch` images and join the rows [n, dim].

    With `pad`, the last slice is filled up with black images, so that every call has the same shape.
    """
    rows = np.empty((len(pixels), dim), np.float32)
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        missing = batch - len(part) if pad else 0
        filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.uint8)]) if missing else part
        rows[start : start + len(part)] = forward(filled)[: len(part)]
    return rows
