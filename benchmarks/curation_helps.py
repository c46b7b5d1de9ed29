"""Does curation help? One small model, trained from scratch on a raw set and on its curated release, equal steps.

    python benchmarks/curation_helps.py PHOTOS [--classes 20] [--unique 24] [--steps 250] [--seeds 5] [--size 64]

PHOTOS holds tars of JPEGs. The task, whose labels are exact: which photo was this piece cut from? Pieces to learn from
are cut out of the left 60 % of each photo, those to test with out of the right 40 %, so that no test pixel was seen.

The raw set holds, beside `--unique` clean pieces of each class: copies as they are re-uploaded (smaller, recompressed;
four of every third piece, half of them under a wrong label), damaged files (a tenth; half of these cannot be decoded,
the others show grey), and pieces of their own under a wrong label (a twentieth), which no rule of curation can see.
What cannot be decoded is left out of the raw set too, as every trainer does. The third set holds the clean pieces
alone: what perfect curation would reach.

Each set is trained on with the same seeds. Accuracy is that on the test pieces after the last step.
"""

import argparse
import io
import json
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from math import sqrt
from pathlib import Path

import torch
from PIL import Image

from image_curation.cluster import open_cluster
from image_curation.config import load_settings
from image_curation.curate import Curated, curate
from image_curation.project import Project
from image_curation.training.config import TrainConfig
from image_curation.training.dataset import open_dataset
from image_curation.training.loop import Trained, train

_PIECE = 192
_POLICY = "image: {min_short_side: 64}\nrelease: {samples_per_shard: 1000}\n"
_WHOLE_LEFT, _WHOLE_RIGHT = (0.0, 0.6), (0.6, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--unique", type=int, default=24, help="clean pieces of each class")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--threads", type=int, default=1, help="of torch; small models gain little from more")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        experiment(options, Path(folder))


def experiment(options: argparse.Namespace, folder: Path) -> None:
    photos = large_photos(options.photos, options.classes)
    clean, planted = list(clean_pieces(photos, options.unique)), []
    planted = list(planted_faults(clean, len(photos)))
    pack(folder / "raw" / "set.tar", [*clean, *planted])
    pack(folder / "clean" / "set.tar", clean)
    pack(folder / "test" / "set.tar", list(pieces(photos, 16, _WHOLE_RIGHT, "test", seed=1)))
    project, curated = curated_release(folder)
    places = {"raw": folder / "raw", "curated": Path(project.release_url), "clean pieces alone": folder / "clean"}
    accuracies: dict[str, list[float]] = {name: [] for name in places}
    images: dict[str, int] = {}
    start = time.perf_counter()
    for seed in range(options.seeds):
        for name, place in places.items():
            card = trained(options, place, folder, seed, f"{name}-{seed}").card
            accuracies[name].append(card["validation"]["accuracy"])
            images[name] = card["images"]
            print(f"seed {seed}  {name:<20}{accuracies[name][-1]:.4f}", flush=True)
    print_table(options, curated, kept_faults(project, planted), accuracies, images, time.perf_counter() - start)


def large_photos(folder: Path, count: int) -> list[Image.Image]:
    """Photos wide enough for pieces on both sides, reduced to a short side of 512; the same ones each time."""
    found: list[Image.Image] = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and len(found) < count and (file := tar.extractfile(member)):
                    image = Image.open(io.BytesIO(file.read()))
                    if image.mode == "RGB" and min(image.size) >= 512 and image.width >= image.height:
                        image.thumbnail((10_000, 512))
                        found.append(image)
    if len(found) < count:
        raise SystemExit(f"{folder} holds {len(found)} photos that will do, not {count}")
    return found


Piece = tuple[str, int, bytes]  # key, class, JPEG


def pieces(photos: list[Image.Image], each: int, part: tuple[float, float], name: str, seed: int) -> Iterator[Piece]:
    """Cuts at random places and scales out of a part of each photo's width."""
    chance = random.Random(seed)
    for label, photo in enumerate(photos):
        low, high = int(part[0] * photo.width), int(part[1] * photo.width)
        for number in range(each):
            side = chance.randint(128, min(_PIECE + 64, high - low))
            left, top = chance.randint(low, high - side), chance.randint(0, photo.height - side)
            piece = photo.crop((left, top, left + side, top + side)).resize((_PIECE, _PIECE))
            yield f"{name}-{label:02d}-{number:03d}", label, jpeg(piece, 92)


def clean_pieces(photos: list[Image.Image], each: int) -> Iterator[Piece]:
    return pieces(photos, each, _WHOLE_LEFT, "clean", seed=0)


def planted_faults(clean: list[Piece], classes: int) -> Iterator[Piece]:
    """Copies, damaged files and wrong labels, made of the clean pieces; the name says which."""
    chance = random.Random(2)

    def other(label: int) -> int:
        return (label + chance.randint(1, classes - 1)) % classes

    for i, (key, label, content) in enumerate(clean):
        image = Image.open(io.BytesIO(content))
        if i % 3 == 0:
            for number in range(4):
                small = image.resize((chance.randint(140, 180),) * 2, Image.Resampling.BICUBIC)
                wrong = number % 2 == 1
                word = "copymislabelled" if wrong else "copy"
                yield f"{word}-{key}-{number}", other(label) if wrong else label, jpeg(small, chance.randint(60, 85))
        if i % 10 == 1:
            yield f"cut-{key}", label, content[: len(content) // 2]
        if i % 10 == 2:
            yield f"grey-{key}", label, content[: len(content) // 3] + b"\xff\xd9"
        if i % 20 == 3:
            shifted = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((24, 24, _PIECE, _PIECE))
            yield f"mislabelled-{key}", other(label), jpeg(shifted.rotate(180), 90)


def jpeg(image: Image.Image, quality: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def pack(path: Path, samples: list[Piece]) -> None:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, label, content in samples:
            for name, data in ((f"{key}.jpg", content), (f"{key}.json", json.dumps({"photo": label}).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def curated_release(folder: Path) -> tuple[Project, Curated]:
    (folder / "policy.yaml").write_text(_POLICY)
    settings = load_settings(
        source=str(folder / "raw"),
        root=str(folder / "curated"),
        policy=str(folder / "policy.yaml"),
        encoder="embedded",
        cluster="inline",
        device="cpu",
    )
    project = Project.load(settings)
    with open_cluster(settings) as cluster:
        return project, curate(project, cluster, lambda *_: None)


def kept_faults(project: Project, planted: list[Piece]) -> dict[str, tuple[int, int]]:
    """Kind of fault -> (in the raw set, still in the release)."""
    kept = set(open_dataset(project.release_url, "photo").keys)
    kinds = dict.fromkeys(key.partition("-")[0] for key, *_ in planted)
    own = {kind: [key for key, *_ in planted if key.startswith(f"{kind}-")] for kind in kinds}
    return {kind: (len(keys), sum(key in kept for key in keys)) for kind, keys in own.items()}


def trained(options: argparse.Namespace, place: Path, folder: Path, seed: int, name: str) -> Trained:
    config = TrainConfig(
        model=options.model,
        image_size=options.size,
        batch_size=options.batch,
        steps=options.steps,
        label_field="photo",
        lr=0.4,
        warmup_epochs=2,
        ema=0.98,
        amp="none",
        seed=seed,
        checkpoint_steps=0,
    )
    return train(str(place), str(folder / "out" / name), config, str(folder / "test"))


def print_table(
    options: argparse.Namespace,
    curated: Curated,
    faults: dict[str, tuple[int, int]],
    accuracies: dict[str, list[float]],
    images: dict[str, int],
    seconds: float,
) -> None:
    print(f"\n{date.today()}, {options.model} from scratch, {options.size} px, {options.classes} classes, ", end="")
    print(
        f"{options.steps} steps of {options.batch}, {options.seeds} seeds, torch {torch.__version__}, {seconds:.0f} s"
    )
    print(curated.ledger.sentence())
    print("planted, still in the release: ", end="")
    print(", ".join(f"{kind} {raw} -> {left}" for kind, (raw, left) in faults.items()), end="\n\n")
    print(
        f"{'trained on':<22}{'images':>8}{'accuracy':>10}{'deviation':>11}{'least':>8}{'most':>8}   over raw, by seed"
    )
    for name, values in accuracies.items():
        gains = [one - other for one, other in zip(values, accuracies["raw"], strict=True)]
        error = statistics.stdev(gains) / sqrt(len(gains)) if len(gains) > 1 else 0.0
        row = f"{name:<22}{images[name]:>8,}{statistics.mean(values):>10.4f}"
        row += f"{statistics.stdev(values) if len(values) > 1 else 0:>11.4f}{min(values):>8.4f}{max(values):>8.4f}"
        print(f"{row}   {statistics.mean(gains):+.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
