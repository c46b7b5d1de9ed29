"""Turn the photographs that ship inside scikit-image and scikit-learn into many distinct photos with captions."""

import importlib.util
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from image_curation.errors import ConfigError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, half-open: what `PIL.Image.Image.crop` takes."""

LARGEST_SIDE = 165
"""Windows are cut until no side is longer (pixels), unless the source says otherwise."""

MIN_STD = 20.0
"""Grey levels. A window with less luminance variation is nearly flat, and flat windows look alike to any hash."""

MIN_MEAN = 10.0
"""Grey levels. A window of the night sky below this is all but black, and a curator would rightly call it too dark."""

MAX_LIKENESS = 0.8
"""Correlation of 16 x 16 luminance. Windows that are more alike than this are not two photos."""

_CC0 = "CC0-1.0"
_PUBLIC = "public domain"
_HORIZONTAL = ("left", "", "right")
_VERTICAL = ("upper", "", "lower")


@dataclass(frozen=True)
class Source:
    """A photograph in an installed package. `whole`: the full frame is a photo of its own, beside its windows."""

    package: str
    path: str
    subject: str
    licence: str | None
    whole: bool = True
    largest_side: int = LARGEST_SIDE

    @property
    def name(self) -> str:
        """Short name for keys: the file's name up to the first `_` or dot."""
        return Path(self.path).stem.partition("_")[0]


@dataclass(frozen=True)
class Photo:
    """A full frame (`whole`) or a window of it: mode L or RGB pixels, as large as the box."""

    source: Source
    box: Box
    image: Image.Image
    caption: str
    whole: bool


# Licences as the packages' own documentation states them; None where it names none.
SOURCES: tuple[Source, ...] = (
    Source("sklearn", "datasets/images/china.jpg", "A Chinese temple among trees", "CC-BY-2.0, danielbuechele"),
    Source("sklearn", "datasets/images/flower.jpg", "An orange dahlia in bloom", "CC-BY-2.0, danielbuechele"),
    Source("skimage", "data/astronaut.png", "An astronaut in an orange suit", _PUBLIC),
    Source("skimage", "data/camera.png", "A man behind a camera on a tripod, in black and white", _CC0),
    Source("skimage", "data/chelsea.png", "A tabby cat looking past the camera", _CC0),
    Source("skimage", "data/coffee.png", "A cup of espresso on a wooden table", _CC0),
    Source("skimage", "data/coins.png", "Greek coins from Pompeii in four rows", "no known restrictions"),
    Source("skimage", "data/hubble_deep_field.jpg", "The Hubble deep field, full of galaxies", _PUBLIC, False, 520),
    Source("skimage", "data/ihc.png", "Stained tissue under a microscope", "no known restrictions", True, 260),
    Source("skimage", "data/moon.png", "Craters on the surface of the moon", None, False),
    Source("skimage", "data/motorcycle_left.png", "A red motorcycle in a garage", None),
    Source("skimage", "data/page.png", "A printed page about image segmentation", None, True, 512),
    Source("skimage", "data/retina.jpg", "The retina of a human eye", _CC0, True, 300),
    Source("skimage", "data/rocket.jpg", "A rocket on its launch pad at dusk", _PUBLIC),
    # Textures look alike everywhere: the full frame only (no side is longer than 512).
    Source("skimage", "data/brick.png", "A pavement of bricks", _CC0, True, 512),
    Source("skimage", "data/grass.png", "Grass with fallen leaves", _CC0, True, 512),
    Source("skimage", "data/gravel.png", "Gravel from above", _CC0, True, 512),
)


def load_photos(rng: random.Random) -> list[Photo]:
    """All photos that can be cut from the sources, in the order of `SOURCES`; which ones depends on `rng` alone.

    A photo is a full frame or a window of it; windows of one frame do not overlap. Nearly flat or black windows, and
    windows that look like one already taken, are left out, so that any two photos are different pictures.

    Raises:
        ConfigError: a package that holds the photographs is not installed.
    """
    candidates = [photo for source in SOURCES for photo in _cut(source, rng)]
    taken: list[Photo] = []
    looks = np.empty((0, 256), np.float64)
    for photo in candidates:
        look = _look(photo.image)
        if not (looks @ look > MAX_LIKENESS).any():
            taken.append(photo)
            looks = np.vstack([looks, look])
    return taken


def _cut(source: Source, rng: random.Random) -> Iterator[Photo]:
    with Image.open(_locate(source)) as file:
        frame = file.convert("L" if file.mode == "L" else "RGB")
    full = (0, 0, frame.width, frame.height)
    if source.whole:
        yield Photo(source, full, frame, source.subject, whole=True)
    for box in _split(full, source.largest_side, rng):
        window = frame.crop(box)
        luminance = np.asarray(window.convert("L"), np.float64)
        if box != full and luminance.std() >= MIN_STD and luminance.mean() >= MIN_MEAN:
            caption = f"{source.subject}, {_place(box, frame.width, frame.height)}"
            yield Photo(source, box, window, caption, whole=False)


def _split(box: Box, largest_side: int, rng: random.Random) -> list[Box]:
    """Halve a box across its longer side, roughly and again and again, until no side is longer than `largest_side`."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if max(width, height) <= largest_side:
        return [box]
    if width >= height:
        cut = left + round(width * rng.uniform(0.4, 0.6))
        halves = [(left, top, cut, bottom), (cut, top, right, bottom)]
    else:
        cut = top + round(height * rng.uniform(0.4, 0.6))
        halves = [(left, top, right, cut), (left, cut, right, bottom)]
    return [piece for half in halves for piece in _split(half, largest_side, rng)]


def _place(box: Box, width: int, height: int) -> str:
    """Where a box lies in a frame of this size, by the third that its centre is in."""
    across = _HORIZONTAL[3 * (box[0] + box[2]) // (2 * width)]
    down = _VERTICAL[3 * (box[1] + box[3]) // (2 * height)]
    if across and down:
        return f"detail at the {down} {across}"
    if across:
        return f"detail at the {across}"
    return {"upper": "detail at the top", "lower": "detail at the bottom", "": "detail at the centre"}[down]


def _look(image: Image.Image) -> npt.NDArray[np.float64]:
    """Luminance at 16 x 16, zero mean, unit norm, [256]: the product of two is their correlation."""
    small = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), np.float64).ravel()
    centred = small - small.mean()
    return np.asarray(centred / max(np.linalg.norm(centred), 1e-9))


def _locate(source: Source) -> Path:
    # find_spec does not run the package: importing scikit-learn would take seconds.
    spec = importlib.util.find_spec(source.package)
    path = Path(spec.origin).parent / source.path if spec is not None and spec.origin is not None else None
    if path is None or not path.is_file():
        raise ConfigError(
            f"the demo takes photographs from the package {source.package}, which lacks {source.path} here or is not "
            "installed. Install it with: pip install 'image-curation[demo]'"
        )
    return path
