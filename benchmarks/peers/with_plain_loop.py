"""The loop that most people write: webdataset, open_clip's transform in DataLoader workers, the model, Parquet.

    python benchmarks/peers/with_plain_loop.py SHARDS OUT [--images N] [--corrupt CORRUPT_SHARDS] [--compile]

On a GPU the model runs in bf16. Bad images are skipped with a warning, as webdataset's documentation shows.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peer

from image_curation.encoders.torchvision_cpu import ensure_torchvision

NAME = "webdataset + open_clip"
BATCH = 256

ensure_torchvision()
with peer.needs(NAME):
    import open_clip
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    import webdataset as wds

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32


class PlainLoop:
    """A model and its transform."""

    def __init__(self, model: str, compiled: bool) -> None:
        torch.manual_seed(peer.SEED)
        made, _, self._transform = open_clip.create_model_and_transforms(model, force_quick_gelu=True)
        visual = made.visual.eval().to(DEVICE, DTYPE)
        self._model = torch.compile(visual) if compiled else visual
        self._batch = BATCH if DEVICE.type == "cuda" else 32
        for _ in range(3):
            self._encode(torch.zeros(self._batch, 3, 224, 224))

    def run(self, tars: list[Path], out: Path, clock: peer.Clock) -> set[str]:
        """Write the vectors of all images that decode; returns their keys."""
        schema = pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32()))])
        done = set()
        with pq.ParquetWriter(out, schema) as writer:
            for keys, pixels in self._batches(tars):
                vectors = self._encode(pixels)
                writer.write_table(pa.table({"key": list(keys), "vector": list(vectors)}, schema))
                clock.tick(len(keys))
                done |= set(keys)
        return done

    def _batches(self, tars: list[Path]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Keys and float [n, 3, 224, 224]."""
        dataset = (
            wds.WebDataset([str(tar) for tar in tars], shardshuffle=False, handler=wds.warn_and_continue)
            .decode("pil", handler=wds.warn_and_continue)
            .to_tuple("__key__", "jpg", handler=wds.warn_and_continue)
            .map_tuple(str, self._transform, handler=wds.warn_and_continue)
            .batched(self._batch)
        )
        workers = min(peer.cores(), len(tars))
        yield from torch.utils.data.DataLoader(
            dataset, batch_size=None, num_workers=workers, pin_memory=DEVICE.type == "cuda", prefetch_factor=4
        )

    @torch.inference_mode()
    def _encode(self, pixels: torch.Tensor) -> Any:
        """float [n, 3, 224, 224] -> unit vectors, float32 [n, dim]. Batches are filled up, for torch.compile."""
        missing = self._batch - len(pixels)
        batch = torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else pixels
        features = self._model(batch.to(DEVICE, DTYPE, non_blocking=True))[: len(pixels)].float()
        return torch.nn.functional.normalize(features, dim=-1).cpu().numpy()


def main() -> None:
    parser = peer.parser(__doc__)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    options = peer.parse(parser)
    warnings.filterwarnings("ignore")
    name = NAME + (" + torch.compile" if options.compile else "")
    loop = PlainLoop(peer.MODELS[options.model], options.compile)
    clock = peer.Clock()
    loop.run(peer.tars(options.shards, options.images), options.out / "vectors.parquet", clock)
    dtype = str(DTYPE).removeprefix("torch.")
    peer.report(clock.steady(name, f"{dtype}, {peer.cores()} workers"))
    peer.report_loss(
        name,
        options,
        lambda tars: (
            loop.run(tars, options.out / "corrupt.parquet", peer.Clock()),
            "bad images vanish with a warning",
        ),
    )


if __name__ == "__main__":
    main()
