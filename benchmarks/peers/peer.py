"""What the peers share: arguments, the shards that they take, the rate that counts, and the lines that they print.

Every peer is run as   python benchmarks/peers/with_NAME.py SHARDS OUT [--images N] [--corrupt CORRUPT_SHARDS]

and prints one JSON line with its rate and, with --corrupt, another with what became of the good images beside corrupt
ones. Weights are random ones of the real architecture: they are as fast, and no peer has to fetch anything.
"""

import argparse
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate, combinations
from pathlib import Path
from statistics import median

SEED = 0  # of the random weights
MODELS = {"vit-l-14": "ViT-L-14", "vit-b-32": "ViT-B-32"}  # ours -> open_clip's


@dataclass(frozen=True)
class Rate:
    """How fast a peer made `images` vectors. `notes` says how it was set up and what the rate leaves out."""

    name: str
    images: int
    seconds: float
    rate: float
    notes: str


@dataclass(frozen=True)
class Loss:
    """What became of the `good` images of shards in which some are corrupt: `lost` of them have no vector."""

    name: str
    good: int
    lost: int
    outcome: str


@dataclass
class Clock:
    """When how many images were done."""

    marks: list[tuple[float, int]] = field(default_factory=list)  # (seconds since the epoch, images done then)

    def tick(self, images: int) -> None:
        """`images` more are done."""
        self.marks.append((time.time(), images))

    def steady(self, name: str, notes: str) -> Rate:
        """The rate while all workers were busy: neither their start nor the tail is held against a peer.

        Workers that began together finish together, batch after batch. So the rate is the median of the slopes between
        all two moments that lie an eighth of the run or more apart, in its middle three quarters.

        Raises:
            SystemExit: there are too few moments for that.
        """
        moments = sorted(self.marks)
        total = sum(images for _, images in moments)
        done = list(accumulate(images for _, images in moments))
        middle = [(n, time_s) for n, (time_s, _) in zip(done, moments, strict=True) if total / 8 <= n <= total * 7 / 8]
        pairs = [(a, b) for a, b in combinations(middle, 2) if b[0] - a[0] >= total / 8]
        if not pairs:
            raise SystemExit(f"{name}: {total} images in {len(moments)} steps are too few for a rate. Take more.")
        slopes = [(n - m) / (end - start) for (m, start), (n, end) in pairs]
        images, rate = middle[-1][0] - middle[0][0], median(slopes)
        return Rate(name, images, round(images / rate, 3), round(rate, 1), notes)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that every peer takes."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("shards", type=Path, help="folder of tars")
    made.add_argument("out", type=Path, help="folder for what the peer writes; emptied first")
    made.add_argument("--images", type=int, default=20_000, help="take as many tars as hold this many images")
    made.add_argument("--corrupt", type=Path, help="folder of the same tars, some of their images damaged")
    made.add_argument("--corrupt-images", type=int, default=2_000)
    made.add_argument("--model", choices=MODELS, default="vit-l-14")
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The given arguments, absolute, with `out` empty."""
    options = made.parse_args()
    options.shards, options.out = options.shards.resolve(), options.out.resolve()
    options.corrupt = options.corrupt and options.corrupt.resolve()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    return options


def tars(folder: Path, images: int) -> list[Path]:
    """The first tars of a folder, as many as hold `images` images.

    Raises:
        SystemExit: there are no tars.
    """
    found, held = [], 0
    for path in sorted(folder.glob("*.tar")):
        if held >= images:
            break
        held += len(_images(path))
        found.append(path)
    if not found:
        raise SystemExit(f"no tars in {folder}: make some with benchmarks/make_shards.py")
    return found


def keys(tar: Path) -> list[str]:
    """The keys of a tar's images, in order."""
    return list(_images(tar))


def good_keys(clean: Path, corrupt: list[Path]) -> set[str]:
    """The keys in `corrupt` of images that are what they are in the tars of the same names in the folder `clean`."""
    good = set()
    for tar in corrupt:
        before, after = _images(clean / tar.name), _images(tar)
        good |= {key for key, place in after.items() if _bytes(tar, place) == _bytes(clean / tar.name, before[key])}
    return good


def _images(tar: Path) -> dict[str, tuple[int, int]]:
    """Key -> offset and size of its image."""
    with tarfile.open(tar) as opened:
        return {
            member.name.removesuffix(".jpg"): (member.offset_data, member.size)
            for member in opened
            if member.name.endswith(".jpg")
        }


def _bytes(tar: Path, place: tuple[int, int]) -> bytes:
    with tar.open("rb") as file:
        file.seek(place[0])
        return file.read(place[1])


def report(result: Rate | Loss) -> None:
    """Print one line of JSON, at once: what comes later may kill the process."""
    print(json.dumps(asdict(result)), flush=True)


def report_loss(name: str, options: argparse.Namespace, embed: Callable[[list[Path]], tuple[set[str], str]]) -> None:
    """Embed corrupt shards, if there are any to take, and report the good images that have no vector.

    Args:
        embed: makes vectors of tars; gives the keys that have one, and what became of the bad images.
    """
    if options.corrupt is None:
        return
    corrupt = tars(options.corrupt, options.corrupt_images)
    good = good_keys(options.shards, corrupt)
    try:
        done, outcome = embed(corrupt)
    except Exception as error:  # noqa: BLE001 - how a peer fails is what is measured
        done, outcome = set(), f"the run stops: {_last_line(error)}"
    report(Loss(name, len(good), len(good - done), outcome))


@contextmanager
def needs(name: str) -> Iterator[None]:
    """Around the imports of a peer: what is not installed is a result, not a crash."""
    try:
        yield
    except ImportError as error:
        report(Rate(name, 0, 0.0, 0.0, f"not installed: {_last_line(error)}"))
        sys.exit(0)


def _last_line(error: Exception) -> str:
    """What an error says in the end: those from other processes begin with the way they came."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:120]}"


def cores() -> int:
    return len(os.sched_getaffinity(0))
