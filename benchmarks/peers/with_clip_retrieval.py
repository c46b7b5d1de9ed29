"""clip-retrieval's `inference`: webdataset, open_clip's transform in DataLoader workers, open_clip in bf16, .npy files.

    python benchmarks/peers/with_clip_retrieval.py SHARDS OUT [--images N] [--corrupt CORRUPT_SHARDS]

Needs clip-retrieval with open_clip_torch < 3 and webdataset < 0.3. wandb and faiss, which it imports but does not use
for this, are not needed.
"""

import importlib
import importlib.util
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import peer

NAME = "clip-retrieval"
BATCH = 256

for unused in ("faiss", "wandb"):
    if importlib.util.find_spec(unused) is None:
        sys.modules[unused] = types.ModuleType(unused)
        sys.modules[unused].__spec__ = importlib.util.spec_from_loader(unused, loader=None)

with peer.needs(NAME):
    worker: Any = importlib.import_module("clip_retrieval.clip_inference.worker")  # a function hides its package
    import open_clip
    import pyarrow.parquet as pq
    import torch


class MarkingLog:
    """In the place of clip-retrieval's log of statistics: tells a clock of each batch."""

    def __init__(self, clock: peer.Clock) -> None:
        self._clock = clock

    def start(self) -> None: ...

    def end(self) -> None: ...

    def __call__(self, stats: dict[str, Any]) -> None:
        self._clock.tick(stats["sample_count"])


def run(tars: list[Path], out: Path, model: str, weights: Path) -> tuple[peer.Clock, set[str]]:
    """When the batches were done, and the keys of the images that have a vector."""
    clock = peer.Clock()
    worker.LoggerWriter = lambda partition_id, stats_folder: MarkingLog(clock)
    worker.worker(
        tasks=[0],
        input_dataset=[str(tar) for tar in tars],
        output_folder=str(out),
        output_partition_count=1,
        input_format="webdataset",
        batch_size=BATCH if torch.cuda.is_available() else 32,
        num_prepro_workers=min(peer.cores(), len(tars)),
        enable_text=False,
        clip_model=f"open_clip:{model}/{weights}",
        use_jit=False,
    )
    done: set[str] = set()
    for file in (out / "metadata").glob("*.parquet"):
        done |= set(pq.read_table(file)["image_path"].to_pylist())
    return clock, done


def main() -> None:
    options = peer.parse(peer.parser(__doc__))
    warnings.filterwarnings("ignore")
    model, weights = peer.MODELS[options.model], options.out / "weights.pt"
    torch.save(open_clip.create_model(model).state_dict(), weights)
    clock, _ = run(peer.tars(options.shards, options.images), options.out / "vectors", model, weights)
    dtype = "bf16 autocast" if torch.cuda.is_available() else "fp32"
    peer.report(clock.steady(NAME, f"{dtype}, {peer.cores()} workers"))
    peer.report_loss(
        NAME,
        options,
        lambda tars: (run(tars, options.out / "corrupt", model, weights)[1], "bad images vanish with a warning"),
    )


if __name__ == "__main__":
    main()
