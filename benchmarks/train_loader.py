"""How fast images reach a model in training: DALI, a PyTorch DataLoader and synthetic data, all in one process and run.

    python benchmarks/train_loader.py SHARDS [--label-field photo] [--model resnet50] [--size 224] [--batch 256]
        [--threads 16] [--workers 16] [--seconds 15] [--rounds 3] [--device auto] [--decoder auto] [--amp bf16]

SHARDS is what benchmarks/make_shards.py wrote. Two tables come last:

- loaders alone: batches are taken and thrown away. On a CPU, DALI's threads against as many workers of the DataLoader;
- the same loaders feeding the model, beside the model on one synthetic batch, which is the limit where a GPU has it. A
  model on the CPU shares its cores with what decodes for it, so there no loader can come near.

CPU ms is the CPU time of an image in all processes and threads, which other work on the machine changes least.

The peer is a DataLoader as torchvision's reference training has it: Pillow, RandomResizedCrop, flip, normalization.
Where torchvision is not at hand the same transform in plain Pillow and torch takes its place, and the table says so.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from image_curation.training.config import TrainConfig
from image_curation.training.dataset import Dataset, open_dataset
from image_curation.training.feeds import training_loader
from image_curation.training.learner import Learner
from image_curation.training.loaders import Batch
from image_curation.training.pipelines import MEAN, STD
from image_curation.training.processes import Processes, joined_processes


def main() -> None:
    options = parsed()
    with joined_processes(options.device) as processes:
        dataset = open_dataset(options.shards, options.label_field)
        feeds = {name: opened(name, options, dataset, processes) for name in options.loaders.split(",")}
        alone: dict[str, list[Speed]] = {}
        fed: dict[str, list[Speed]] = {}
        learner = Learner(config_of(options, "dali"), len(dataset.classes), len(dataset) // options.batch, processes)
        measured(feeds["synthetic"], learner.learn, options, processes, 3)  # the first steps choose kernels
        for _ in range(options.rounds):
            for name, batches in feeds.items():
                if name != "synthetic":
                    alone.setdefault(name, []).append(measured(batches, None, options, processes, options.seconds / 2))
                fed.setdefault(name, []).append(measured(batches, learner.learn, options, processes, options.seconds))
        print_tables(options, dataset, alone, fed, processes)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--label-field", default="photo")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=0, help="of DALI; 0: all cores")
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader; 0: as many as threads")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--decoder", default="auto", help="auto, cpu or mixed")
    parser.add_argument("--amp", default="bf16")
    parser.add_argument("--augmentation", default="none")
    parser.add_argument("--loaders", default="synthetic,dali,dataloader", help="also: proxy")
    options = parser.parse_args()
    options.threads = options.threads or len(os.sched_getaffinity(0))
    options.workers = options.workers or options.threads
    return options


def config_of(options: argparse.Namespace, loader: str) -> TrainConfig:
    return TrainConfig(
        model=options.model,
        image_size=options.size,
        batch_size=options.batch,
        threads=options.threads,
        decoder=options.decoder,
        amp=options.amp,
        augmentation=options.augmentation,
        loader=loader,
        lr=0.01,
    )


def opened(name: str, options: argparse.Namespace, dataset: Dataset, processes: Processes) -> Iterator[Batch]:
    """Batches without end."""
    if name == "dataloader":
        peer = peer_loader(options, dataset, processes)
        return endless(lambda: peer_batches(peer, processes))
    loader = training_loader(config_of(options, name), dataset, processes, None)
    return endless(loader.epoch)


def endless(epoch: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    while True:
        yield from epoch()


@dataclass(frozen=True)
class Speed:
    """Of a window: images a second, and the CPU time of an image in ms."""

    images_per_s: float
    cpu_ms: float


def measured(
    batches: Iterator[Batch],
    use: Callable[[Batch], Any] | None,
    options: argparse.Namespace,
    processes: Processes,
    seconds: float,
) -> Speed:
    """Speed over some seconds, after a few batches that are not counted."""
    for _ in range(4):
        batch = next(batches)
        if use:
            use(batch)
    finish(processes)
    start, cpu, images = time.perf_counter(), cpu_s(), 0
    while time.perf_counter() - start < seconds:
        batch = next(batches)
        images += len(batch.labels)
        if use:
            use(batch)
        if images % (16 * options.batch) == 0:
            finish(processes)  # the queue of a GPU is long: steps would be counted before they are done
    finish(processes)
    speed = Speed(images / (time.perf_counter() - start), 1e3 * (cpu_s() - cpu) / images)
    time.sleep(1)  # what was taken is made anew, which is no part of the next window
    return speed


def cpu_s() -> float:
    """CPU seconds of this process and of those that it started and that live."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


def finish(processes: Processes) -> None:
    if processes.device.type == "cuda":
        torch.cuda.synchronize()


class PillowImages(TorchDataset[Any]):
    """The peer's data: an image is read by its offset, decoded by Pillow, and transformed."""

    def __init__(self, dataset: Dataset, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self._dataset, self._transform = dataset, transform

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, int]:
        data = self._dataset
        with open(data.files[data.file[row]], "rb") as file:
            file.seek(data.offset[row])
            image = Image.open(io.BytesIO(file.read(data.size[row]))).convert("RGB")
        return self._transform(image), int(data.labels[row]), row


def peer_loader(options: argparse.Namespace, dataset: Dataset, processes: Processes) -> DataLoader[Any]:
    return DataLoader(
        PillowImages(dataset, peer_transform(options.size)[1]),
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        pin_memory=processes.device.type == "cuda",
        prefetch_factor=2,
        persistent_workers=True,
        worker_init_fn=one_thread,
    )


def peer_batches(loader: DataLoader[Any], processes: Processes) -> Iterator[Batch]:
    for images, labels, rows in loader:
        yield Batch(*(part.to(processes.device, non_blocking=True) for part in (images, labels, rows)))


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def peer_transform(size: int) -> tuple[str, Callable[[Image.Image], torch.Tensor]]:
    """Its name, and torchvision's transform or the same in Pillow and torch."""
    mean, std = ([value / 255 for value in values] for values in (MEAN, STD))
    try:
        from image_curation.encoders.torchvision_cpu import ensure_torchvision

        ensure_torchvision()
        from torchvision import transforms
    except (ImportError, RuntimeError):
        return "Pillow", PillowTransform(size, mean, std)
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return "torchvision", transforms.Compose([*steps, transforms.Normalize(mean, std)])


class PillowTransform:
    """A random crop of 8 to 100 % of the area, resized, flipped by a coin, normalized: what torchvision does."""

    def __init__(self, size: int, mean: list[float], std: list[float]) -> None:
        self._size = size
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, image: Image.Image) -> torch.Tensor:
        square = (self._size, self._size)
        image = image.resize(square, Image.Resampling.BILINEAR, box=self._box(*image.size))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
        return pixels.sub_(self._mean).div_(self._std)

    @staticmethod
    def _box(width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * random.uniform(0.08, 1)
            aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = random.randint(0, width - w), random.randint(0, height - h)
                return left, top, left + w, top + h
        return 0, 0, width, height


def print_tables(
    options: argparse.Namespace,
    dataset: Dataset,
    alone: dict[str, list[Speed]],
    fed: dict[str, list[Speed]],
    processes: Processes,
) -> None:
    gpu = processes.device.type == "cuda"
    where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads of torch"
    packages = ", ".join(f"{name} {version(name)}" for name in ("image-curation", "torch", "timm") if installed(name))
    print(f"\n{date.today()}, {where}, Python {platform.python_version()}, {packages}")
    print(
        f"{len(dataset):,} images, {options.model}, {options.size} px, batch {options.batch}, {options.amp}, ", end=""
    )
    print(f"{options.threads} threads of DALI, {options.workers} workers of the DataLoader, decoder {options.decoder}")
    print(
        f"the DataLoader's transform is that of {peer_transform(options.size)[0]}; medians of {options.rounds} rounds\n"
    )
    print_table("loader alone", alone, "dataloader")
    print_table("feeding the model", fed, "synthetic")


def print_table(title: str, speeds: dict[str, list[Speed]], base: str) -> None:
    print(
        f"{title:<24}{'images/s':>10}{'least':>10}{'most':>10}   {'of ' + base:<14}{'CPU ms':>8}{'least':>8}{'most':>8}"
    )
    middles = {name: statistics.median(one.images_per_s for one in found) for name, found in speeds.items()}
    for name, found in speeds.items():
        rates, cpu = ([getattr(one, field) for one in found] for field in ("images_per_s", "cpu_ms"))
        share = f"{middles[name] / middles[base]:.3f}" if base in middles else ""
        print(f"{name:<24}{middles[name]:>10,.0f}{min(rates):>10,.0f}{max(rates):>10,.0f}   {share:<14}", end="")
        print(f"{statistics.median(cpu):>8.2f}{min(cpu):>8.2f}{max(cpu):>8.2f}")
    print()


def installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    main()
