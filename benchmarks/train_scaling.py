"""Training on 1, 2, 4, ... GPUs (or processes): images a second of `image-curation train` under torchrun, one run.

    python benchmarks/train_scaling.py SHARDS [--processes 1,2,4] [--label-field photo] [--model resnet50] [--batch 256]
        [--size 224] [--steps 160] [--loaders dali,synthetic] [--device auto] [--set NAME=VALUE]

SHARDS is what benchmarks/make_shards.py wrote; a few thousand images will do. They are linked as often as makes one
epoch hold all steps, since at an epoch's end DALI begins anew and a checkpoint is written. Rates are medians over
windows of 20 steps, without the first two; the last column is the rate over that of linear scaling from the first.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from math import ceil
from pathlib import Path

from image_curation.training.dataset import open_dataset

_WINDOW_STEPS = 20
_NOT_COUNTED = 2  # windows, in which kernels are chosen and memory is taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--label-field", default="photo")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--loaders", default="dali,synthetic")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    if options.steps < (_NOT_COUNTED + 1) * _WINDOW_STEPS:
        raise SystemExit(f"--steps {options.steps} should be >= {(_NOT_COUNTED + 1) * _WINDOW_STEPS}")
    images = len(open_dataset(options.shards, options.label_field))
    rates = {
        loader: {n: rate_of(options, loader, n, images) for n in map(int, options.processes.split(","))}
        for loader in options.loaders.split(",")
    }
    print_table(options, images, rates)


def rate_of(options: argparse.Namespace, loader: str, processes: int, images: int) -> list[float]:
    """Images a second, one for each window of the log."""
    settings = {
        "image_size": options.size,
        "batch_size": options.batch,
        "steps": options.steps,
        "log_steps": _WINDOW_STEPS,
        "loader": loader,
        "check": "none",
        "checkpoint_steps": 0,
    }
    given = [*(f"{name}={value}" for name, value in settings.items()), *options.set]
    with tempfile.TemporaryDirectory() as folder:
        out, shards = Path(folder, "out"), Path(folder, "shards")
        link_shards(Path(options.shards), shards, ceil(options.steps * options.batch * processes / images))
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        words += ["-m", "image_curation", "train", str(shards), str(out), "--model", options.model]
        words += ["--label-field", options.label_field, "--device", options.device]
        words += [word for pair in given for word in ("--set", pair)]
        begin = time.perf_counter()
        subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # as torchrun sets it above one
        took_s = time.perf_counter() - begin
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rates = [line["images_per_s"] for line in lines if line["event"] == "train"][_NOT_COUNTED:]
    print(f"{loader}, {processes} of them: {statistics.median(rates):,.0f} images/s, {took_s:.0f} s in all", flush=True)
    return rates


def link_shards(shards: Path, folder: Path, times: int) -> None:
    """A folder with so many links to each tar, under names of their own: keys of images begin with the tar's name."""
    folder.mkdir()
    for number, tar in enumerate(sorted(shards.glob("*.tar"))):
        for copy in range(times):
            (folder / f"{copy:04d}-{number:06d}.tar").symlink_to(tar.resolve())


def print_table(options: argparse.Namespace, images: int, rates: dict[str, dict[int, list[float]]]) -> None:
    import torch

    where = torch.cuda.get_device_name() if torch.cuda.is_available() and options.device != "cpu" else "CPU"
    print(f"\n{date.today()}, {where}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{options.model}, {options.size} px, batch {options.batch} a process, {images:,} images, ", end="")
    print(f"{options.steps - _NOT_COUNTED * _WINDOW_STEPS} steps measured\n")
    print(f"{'loader':<12}{'processes':>10}{'images/s':>10}{'least':>10}{'most':>10}   of linear")
    for loader, by_count in rates.items():
        one = statistics.median(next(iter(by_count.values()))) / next(iter(by_count))
        for n, windows in by_count.items():
            middle = statistics.median(windows)
            share = f"{middle / (n * one):.3f}"
            print(f"{loader:<12}{n:>10}{middle:>10,.0f}{min(windows):>10,.0f}{max(windows):>10,.0f}   {share}")


if __name__ == "__main__":
    main()
