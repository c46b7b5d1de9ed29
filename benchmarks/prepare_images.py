"""Image bytes -> what CLIP takes, by this project and by open_clip's own transform on Pillow, and how far they differ.

    python benchmarks/prepare_images.py FOLDER_OF_TARS [--threads 1] [--images 400] [--rounds 5] [--size 224]
        [--encoder clip-vit-l-14 --random-weights]

All get the same image bytes in memory and end with normalised float32 [3, size, size]: open_clip opens the image with
Pillow, turns it to RGB, and resizes, crops and normalises it; this project reads the header, decodes, crops, makes a
thumbnail and normalises as its encoders do ("pixels"), and measures, which open_clip does not (perceptual hash,
sharpness, exposure, contrast: "and measures", what the engine does). All use as many threads. They take turns, each on
all images of a size class. The table has medians over the rounds: images a second, and CPU time an image of all threads
together; "less" is of that CPU time, round by round.

Then the distance of the pixels, in grey levels of 255 before they are normalised, each image's mean; with --encoder
also the cosine of the vectors. open_clip gets images turned upright for these, which it would not do itself.
"""

import argparse
import io
import os
import platform
import statistics
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from image_curation.decode.codec import CpuCodec
from image_curation.decode.decoder import REDUCED_OVER_SIZE, ImageDecoder
from image_curation.decode.picture import Picture
from image_curation.decode.resize import crop_and_thumb
from image_curation.encoders import load_encoder, profile
from image_curation.encoders.forward import Normalised
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.errors import ImageError
from image_curation.processor import keep_freed_memory
from image_curation.shards.header import read_header

ensure_torchvision()
import open_clip  # noqa: E402  # after `ensure_torchvision`, see there

_BATCH = 32  # images that are decoded at a time
_CLASSES = {"< 0.5 Mpx": (0, 500_000), "0.5 - 2 Mpx": (500_000, 2_000_000), "> 2 Mpx": (2_000_000, 10**12)}
_MEAN, _STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


@dataclass(frozen=True)
class Cost:
    """What one pass over some images took."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Line:
    """One size class: how many images, the passes over them, and each image's distance."""

    name: str
    images: int
    measured: list[Cost]
    pixels: list[Cost]
    theirs: list[Cost]
    distance: npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tars", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=400, help="the most that are read, evenly from all tars")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--encoder")
    parser.add_argument("--weights")
    parser.add_argument("--random-weights", action="store_const", const="random:0", dest="weights")
    options = parser.parse_args()
    keep_freed_memory()  # as the encoders do; open_clip's transform gains by it too
    images = read_images(options.tars, options.images)
    with ImageDecoder(options.size, threads=options.threads) as decoder:
        lines = compare(images, decoder, options)
        cosines = compare_vectors(images, decoder, options) if options.encoder else None
    print_table(lines, cosines, options)


def read_images(folder: Path, most: int) -> list[bytes]:
    """Every nth image in the tars that this project and Pillow both can read."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [(path, member) for member in tar if member.isfile() and _is_named_image(member.name)]
    images = []
    for path, member in found[:: -(-len(found) // most)]:
        with open(path, "rb") as file:
            file.seek(member.offset_data)
            data = file.read(member.size)
        try:
            read_header(data)
            Image.open(io.BytesIO(data)).load()
        except (ImageError, OSError):
            continue
        images.append(data)
    if not images:
        raise SystemExit(f"no image in the tars of {folder}")
    return images


def _is_named_image(name: str) -> bool:
    return name.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))


def compare(images: list[bytes], decoder: ImageDecoder, options: argparse.Namespace) -> list[Line]:
    """One line for each size class that has images."""
    pixels = [header.width * header.height for header in map(read_header, images)]
    lines = []
    for name, (low, high) in _CLASSES.items():
        chosen = [image for image, count in zip(images, pixels, strict=True) if low <= count < high]
        if chosen:
            costs = _take_turns(chosen, decoder, options)
            lines.append(Line(name, len(chosen), *costs, _distance(chosen, decoder, options.size)))
    return lines


def _take_turns(
    images: list[bytes], decoder: ImageDecoder, options: argparse.Namespace
) -> tuple[list[Cost], list[Cost], list[Cost]]:
    normalised = Normalised(torch.nn.Identity(), _MEAN, _STD, torch.float32, torch.device("cpu"))
    transform = open_clip.image_transform(options.size, is_train=False)

    def measured() -> None:
        for start in range(0, len(images), _BATCH):
            pixels = torch.as_tensor(decoder.decode(images[start : start + _BATCH]).pixels)
            list(pool.map(normalised, (pixels[i : i + 1] for i in range(len(pixels)))))

    def pixels() -> None:
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            codec.decode(part, [read_header(image) for image in part], crop)

    def crop(_: int, picture: Picture) -> None:
        size = (picture.facts.width, picture.facts.height)
        cropped, _thumb = crop_and_thumb(picture.pixels, picture.reduction, size, options.size)
        normalised(torch.from_numpy(cropped)[None])

    def by_open_clip() -> None:
        list(pool.map(prepare, images))

    def prepare(image: bytes) -> None:
        transform(Image.open(io.BytesIO(image)).convert("RGB"))

    torch.set_num_threads(1)  # it is the pool that computes in parallel
    costs: tuple[list[Cost], list[Cost], list[Cost]] = ([], [], [])
    with ThreadPoolExecutor(options.threads) as pool:
        codec = CpuCodec(pool, REDUCED_OVER_SIZE * options.size)
        for _ in range(options.rounds + 1):
            for own, prepared in zip(costs, (measured, pixels, by_open_clip), strict=True):
                own.append(_cost(prepared))
    for own in costs:
        del own[0]  # it warmed up
    return costs


def _cost(work: Callable[[], None]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def _distance(images: list[bytes], decoder: ImageDecoder, size: int) -> npt.NDArray[np.float64]:
    """Mean absolute difference of each image's pixels from open_clip's."""
    ours = decoder.decode(images)
    theirs = np.array([_open_clip_pixels(images[row], size) for row in ours.rows])
    return np.array([np.abs(a.astype(int) - b).mean() for a, b in zip(np.asarray(ours.pixels), theirs, strict=True)])


def _open_clip_pixels(image: bytes, size: int) -> npt.NDArray[np.uint8]:
    """What open_clip's transform comes to before it makes floats, of the image turned upright."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(image)))
    for step in open_clip.image_transform(size, is_train=False).transforms[:-2]:
        picture = step(picture)
    return np.asarray(picture)


def compare_vectors(images: list[bytes], decoder: ImageDecoder, options: argparse.Namespace) -> npt.NDArray[np.float64]:
    """Cosine of each image's vector from these pixels with that from open_clip's."""
    torch.set_num_threads(options.threads)
    encoder = load_encoder(profile(options.encoder), "cpu", options.weights)
    ours = decoder.decode(images)
    theirs = np.array([_open_clip_pixels(images[row], options.size) for row in ours.rows])
    left, right = (encoder.encode(pixels).astype(np.float64) for pixels in (ours.pixels, theirs))
    return np.asarray((left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1))


def print_table(lines: list[Line], cosines: npt.NDArray[np.float64] | None, options: argparse.Namespace) -> None:
    versions = ", ".join(f"{name} {version(name)}" for name in ("open_clip_torch", "pillow", "torch", "simplejpeg"))
    threads = f"{options.threads} of {os.cpu_count()} cores"
    print(f"{date.today()}, {platform.machine()}, {threads}, {versions}; {options.rounds} rounds, size {options.size}")
    columns = f"{'images/s':>10}{'CPU ms/image':>14}{'less':>7}{'distance: mean':>17}{'worst':>8}"
    print(f"{'':<14}{'images':>8}{'':>15}{columns}")
    for line in [*lines, _overall(lines)]:
        far = f"{line.distance.mean():>17.3f}{line.distance.max():>8.3f}"
        for name, own in (("pixels", line.pixels), ("and measures", line.measured), ("open_clip", line.theirs)):
            less = statistics.median(b.cpu_s / a.cpu_s for a, b in zip(own, line.theirs, strict=True))
            rate = line.images / statistics.median(c.wall_s for c in own)
            first = f"{line.name:<14}{line.images:>8}" if own is line.pixels else " " * 22
            print(f"{first}{name:>15}{rate:>10.0f}{_cpu_ms(own, line.images):>14.2f}{less:>6.2f}x{far}")
            far = ""
    if cosines is not None:
        print(f"cosine of {options.encoder}'s vectors: mean {cosines.mean():.6f}, worst image {cosines.min():.6f}")


def _cpu_ms(costs: list[Cost], images: int) -> float:
    return 1000 * statistics.median(cost.cpu_s for cost in costs) / images


def _overall(lines: list[Line]) -> Line:
    """All size classes together, round by round."""

    def summed(rounds: list[list[Cost]]) -> list[Cost]:
        return [Cost(sum(c.wall_s for c in one), sum(c.cpu_s for c in one)) for one in zip(*rounds, strict=True)]

    return Line(
        "overall",
        sum(line.images for line in lines),
        summed([line.measured for line in lines]),
        summed([line.pixels for line in lines]),
        summed([line.theirs for line in lines]),
        np.concatenate([line.distance for line in lines]),
    )


if __name__ == "__main__":
    main()
