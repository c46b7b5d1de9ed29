"""Make shards to measure on: JPEGs of 512 x 384 and 84 kB, each a cut of its own of a real photo, with text and JSON.

    python benchmarks/make_shards.py PHOTOS OUT --images 20000 [--per-shard 1000] [--corrupt 0.01]

PHOTOS holds tars of JPEGs. The JSON says which photo an image was cut from: a class that can be learned. With
--corrupt, that share of the images is damaged (cut off, zeroed, replaced by text or emptied), the same ones each time
and spread over all shards. The others have the same bytes as without it.
"""

import argparse
import io
import json
import os
import random
import tarfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import simplejpeg

_SIDES = (512, 384)  # of a landscape; every third image is a portrait
_TARGET_BYTES = 100_000
_DAMAGES = ("cut", "zeroed", "text", "empty")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--per-shard", type=int, default=1_000)
    parser.add_argument("--corrupt", type=float, default=0.0)
    options = parser.parse_args()
    make_shards(options.photos, options.out, options.images, options.per_shard, options.corrupt)


def make_shards(photos: Path, out: Path, images: int, per_shard: int, corrupt: float) -> None:
    """Write ceil(images / per_shard) tars into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, images, per_shard)
    write = partial(_write_shard, photos, out, per_shard, images, corrupt)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        sizes = list(pool.map(write, starts))
    print(f"{images:,} images in {len(sizes)} shards, {sum(sizes) / images / 1e3:.0f} kB each, in {out}")


def _write_shard(photos: Path, out: Path, per_shard: int, images: int, corrupt: float, start: int) -> int:
    """One tar; returns the bytes of its images."""
    originals = _originals(photos)
    total = 0
    with tarfile.open(out / f"{start // per_shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(start, min(start + per_shard, images)):
            chance = random.Random(number)
            image = _variant(originals[number % len(originals)], chance)
            total += len(image)
            if random.Random(-1 - number).random() < corrupt:
                image = _damaged(image, chance)
            key = f"{number:09d}"
            for name, data in (
                (f"{key}.jpg", image),
                (f"{key}.txt", f"photo number {number}".encode()),
                (f"{key}.json", json.dumps({"number": number, "photo": number % len(originals)}).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return total


def _originals(photos: Path) -> list[bytes]:
    """Those photos that are JPEGs large enough to cut from."""
    found = []
    for path in sorted(photos.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                    data = file.read()
                    if _is_large_enough(data):
                        found.append(data)
    if not found:
        raise SystemExit(f"no JPEG of at least {max(_SIDES)} pixels a side in the tars of {photos}")
    return found


def _is_large_enough(data: bytes) -> bool:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:  # among photos there may be what is none
        return False
    return min(height, width) >= max(_SIDES) and colours == "YCbCr"


def _variant(original: bytes, chance: random.Random) -> bytes:
    """A random cut at a random scale (by whole pixels, so that it stays as sharp as a small photo is), of ~100 kB."""
    pixels = simplejpeg.decode_jpeg(original, strict=False)
    width, height = _SIDES if chance.random() < 2 / 3 else _SIDES[::-1]
    step = chance.randint(1, max(1, min(pixels.shape[0] // height, pixels.shape[1] // width)))
    small = pixels[::step, ::step]
    top, left = (chance.randint(0, have - want) for have, want in zip(small.shape, (height, width), strict=False))
    cut = small[top : top + height, left : left + width].copy()
    low, high = 60, 98
    while low < high:  # the best quality that stays below the target
        middle = (low + high + 1) // 2
        if len(simplejpeg.encode_jpeg(cut, quality=middle, colorsubsampling="420")) <= _TARGET_BYTES:
            low = middle
        else:
            high = middle - 1
    return bytes(simplejpeg.encode_jpeg(cut, quality=low, colorsubsampling="420"))


def _damaged(image: bytes, chance: random.Random) -> bytes:
    match chance.choice(_DAMAGES):
        case "cut":
            return image[: len(image) // 2]
        case "zeroed":
            middle = len(image) // 2
            return image[:middle] + bytes(4096) + image[middle + 4096 :]
        case "text":
            return b"<html>404 Not Found</html>"
        case _:
            return b""


if __name__ == "__main__":
    main()
