"""Vectors -> sketches of 96 bytes, and whether two of them may be those of duplicates: 1/16 of what a vector takes.

A sketch is a point on a sphere of radius 127. All its numbers but the last are components of the vector's difference
from the mean, along the leading principal directions of a sample, divided by the root of their standard deviation; the
last puts it on the sphere. So the dot product of two is 127^2 less half the squared distance of these components.

Images of one subject differ most along the directions in which duplicates differ most too. Weighted so, components tell
more of the two apart: at the same share of duplicates one pair in eight is left of those that unweighted ones leave.

Components are exact before they are rounded (see `vectors`), so sketches are the same bytes on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from image_curation.duplicates.vectors import Float16s, Float64s, chunks
from image_curation.errors import ConfigError

SKETCH_BYTES = 96
RADIUS = 127
_FILL = 0.6  # of the squared radius: what the components of nearly all vectors take, so that the last one is not small
_NEARLY_ALL = 0.999
_TRAINED_ON = 1 << 16  # rows of a sample from which directions are made
_LEAST = 2.0**-10  # a direction with less of the first one's deviation says nothing
_VALUES = {"cpu": 1 << 20, "cuda": 1 << 26}  # numbers of vectors in fp64 at a time


@dataclass(frozen=True, eq=False)
class Sketcher:
    """What makes sketches. Which pairs it lets pass depends on their two vectors and on this alone.

    Attributes:
        directions: float32 [< `SKETCH_BYTES`, d], of norm 1 at most, fp16 values: products with fp16 vectors are exact
            in fp64.
        offsets: int64 [< `SKETCH_BYTES`], the steps of a sample's mean.
        scale: steps for one unit of a component.
        cut: the least dot product of the sketches of two vectors that may be duplicates.
    """

    directions: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    scale: float
    cut: int = -RADIUS * RADIUS * 2  # below every one

    def sketch(self, values: torch.Tensor) -> torch.Tensor:
        """The sketches of fp16 [n, d] unit vectors on a device: int8 [n, `SKETCH_BYTES`] there.

        Raises:
            ConfigError: the directions were made for vectors of another dimension.
        """
        if values.shape[1] != self.directions.shape[1]:
            dims = f"{values.shape[1]} dimensions, the directions of sketches {self.directions.shape[1]}"
            raise ConfigError(f"vectors have {dims}.")
        offsets = torch.from_numpy(self.offsets).to(values.device).double()
        sketches = torch.zeros((len(values), SKETCH_BYTES), dtype=torch.int8, device=values.device)
        for rows, components in _components(values, self.directions):
            steps = components.mul_(self.scale).round_().sub_(offsets).clamp_(-RADIUS, RADIUS)
            left = RADIUS * RADIUS - (steps * steps).sum(1)
            sketches[rows, : len(offsets)] = steps.to(torch.int8)
            # No whole number has a root within 1e-3 of where rounding turns, so any device's root will do.
            sketches[rows, -1] = left.clamp_(min=0).sqrt_().round_().to(torch.int8)
        return sketches

    def may_be_close(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Whether x[i] and y[i], int8 [n, `SKETCH_BYTES`] both, may be sketches of duplicates: bool [n]."""
        return dots(x, y) >= self.cut


def dots(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The dot products of x[i] with y[i], int8 [n, `SKETCH_BYTES`] both: float32 [n], whole numbers below 2^24."""
    return (x.float() * y.float()).sum(1)


def train_sketcher(sample: Float16s, device: str = "cpu") -> Sketcher:
    """Directions for vectors like those of a sample, fp16 [n, d]; rows of zeros or NaN count for nothing.

    Every pair passes until there is a cut.
    """
    rows = sample[:: max(1, len(sample) // _TRAINED_ON)]
    rows = rows[np.isfinite(rows).all(axis=1) & rows.any(axis=1)]
    values = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
    mean, deviation, basis = _principal(values)
    many = min(SKETCH_BYTES - 1, int((deviation > _LEAST * deviation.max(initial=0)).sum()))
    deviation, basis = deviation[:many], basis[:many]
    weight = (deviation.min(initial=np.inf) / deviation) ** 0.5
    directions = (basis * weight[:, None]).astype(np.float16).astype(np.float32)
    centre = directions.astype(np.float64) @ mean
    squares = [((part.cpu().numpy() - centre) ** 2).sum(axis=1) for _, part in _components(values, directions)]
    far = np.quantile(np.concatenate(squares), _NEARLY_ALL) if many else 0.0
    scale = float(RADIUS * (_FILL / far) ** 0.5) if far else 1.0
    return Sketcher(directions, np.rint(centre * scale).astype(np.int64), scale)


def _components(values: torch.Tensor, directions: npt.NDArray[np.float32]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some rows of fp16 [n, d], and their exact components along directions [k, d], float64 [m, k]; NaN counts as 0."""
    along = torch.from_numpy(directions).to(values.device).double().T
    for rows in chunks(len(values), values.shape[1], _VALUES[values.device.type]):
        wide = values[rows].float().nan_to_num_(0, 0, 0).double()  # a CPU has no quick way from fp16 to fp64
        yield rows, wide @ along


def _principal(values: torch.Tensor) -> tuple[Float64s, Float64s, Float64s]:
    """The mean, float64 [d], standard deviations, [d], and directions, [d, d], of fp16 [n, d], the widest first."""
    n, d = values.shape
    total, moment = (values.new_zeros(shape, dtype=torch.float64) for shape in ((d,), (d, d)))
    for part in chunks(n, d, _VALUES[values.device.type]):
        wide = values[part].float().double()
        total += wide.sum(0)
        moment += wide.T @ wide
    mean: Float64s = total.cpu().numpy() / max(1, n)
    variance, basis = np.linalg.eigh(moment.cpu().numpy() / max(1, n) - np.outer(mean, mean))
    return mean, np.sqrt(np.maximum(variance[::-1], 0)), basis.T[::-1]
