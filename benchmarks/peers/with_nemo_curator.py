"""NeMo Curator's own image stages: DALI reader, CLIP ViT-L/14, aesthetic and NSFW scores, Parquet.

    python benchmarks/peers/with_nemo_curator.py SHARDS OUT [--executor direct|xenna|ray] [--images N] [--corrupt ...]

`direct` calls the stages one after the other in this process. The executors are NeMo Curator's: they get as many
workers for the embedding stage, which resizes on the CPU, as there are cores left by the others. The model runs in
fp32, there is no other choice; its matrix products are given TF32, which a user has to know about. Needs
transformers < 5.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import peer

NAME = "NeMo Curator"
BATCH = 100  # the reader's default
NOTE = "fp32 with TF32 products"

os.environ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] = "1"
os.environ.setdefault("LOGURU_LEVEL", "ERROR")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # it kills workers where memory is added as it is used

with peer.needs(NAME):
    import nemo_curator
    import pyarrow.parquet as pq
    import safetensors.torch
    import torch
    import transformers
    from nemo_curator.models.aesthetics import MLP
    from nemo_curator.models.nsfw import NSFWModel
    from nemo_curator.pipeline import Pipeline
    from nemo_curator.stages.image.embedders.clip_embedder import ImageEmbeddingStage
    from nemo_curator.stages.image.filters.aesthetic_filter import ImageAestheticFilterStage
    from nemo_curator.stages.image.filters.nsfw_filter import ImageNSFWFilterStage
    from nemo_curator.stages.image.io.convert import ConvertImageBatchToDocumentBatchStage
    from nemo_curator.stages.image.io.image_reader import ImageReaderStage
    from nemo_curator.stages.text.io.writer.parquet import ParquetWriter
    from nemo_curator.tasks import FileGroupTask

COLUMNS = ["image_id", "embedding", "aesthetic_score", "nsfw_score"]


def make_models(folder: Path, layers: int) -> None:
    """Random weights where the stages look for CLIP ViT-L/14 and both heads, with the files that stand beside them."""
    clip = folder / "openai" / "clip-vit-large-patch14"
    clip.mkdir(parents=True)
    tower = {"num_attention_heads": 16, "hidden_size": 1024, "intermediate_size": 4096, "patch_size": 14}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(
        projection_dim=768, vision_config={**tower, "num_hidden_layers": layers}, text_config=text
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        transformers.CLIPModel(config).save_pretrained(clip)
    preprocessing = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 224,
    }
    (clip / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    (clip / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (clip / "merges.txt").write_text("#version: 0.2\n")
    aesthetic = folder / "ttj" / "sac-logos-ava1-l14-linearMSE"
    aesthetic.mkdir(parents=True)
    safetensors.torch.save_file(MLP().state_dict(), aesthetic / "model.safetensors")
    nsfw = folder / "laion" / "clip-autokeras-binary-nsfw"
    nsfw.mkdir(parents=True)
    torch.save(NSFWModel().state_dict(), nsfw / "clip_autokeras_binary_nsfw.pth")


def stages(models: Path, out: Path, workers: int) -> list[Any]:
    """The pipeline of NeMo Curator's tutorials, with larger batches, and with thresholds that keep every image."""
    model = {"model_dir": str(models), "model_inference_batch_size": BATCH}
    made = [
        ImageReaderStage(dali_batch_size=BATCH, verbose=False, num_gpus_per_worker=0.1),
        ImageEmbeddingStage(**model, num_gpus_per_worker=0.7 / workers, remove_image_data=True),
        ImageAestheticFilterStage(**model, num_gpus_per_worker=0.1, score_threshold=-1e9),
        ImageNSFWFilterStage(**model, num_gpus_per_worker=0.1, score_threshold=1e9),
        ConvertImageBatchToDocumentBatchStage(fields=COLUMNS),
        ParquetWriter(path=str(out)),
    ]
    return [stage.with_(num_workers=workers if stage is made[1] else 1) for stage in made]


class Direct:
    """The stages in this process, one shard after the other."""

    def __init__(self, models: Path, out: Path) -> None:
        self._stages = stages(models, out, workers=1)
        for stage in self._stages:
            stage.setup(None)

    def run(self, tar: Path) -> None:
        """Write the vectors and scores of one shard."""
        reader, *others = self._stages
        for task in reader.process(_task(tar)):
            for stage in others:
                task = stage.process(task)

    def run_corrupt(self, tars: list[Path]) -> tuple[set[str], str]:
        """Run shards as a caller does who expects errors: the next one goes on. Every key of those that go through."""
        done: set[str] = set()
        for tar in tars:
            try:
                self.run(tar)
            except RuntimeError:  # what DALI raises
                continue
            done |= set(peer.keys(tar))
        return done, "one bad image costs its shard"


def main_direct(name: str, options: argparse.Namespace, models: Path) -> None:
    first, *others = peer.tars(options.shards, options.images)
    direct = Direct(models, options.out / "vectors")
    direct.run(first)
    start = time.perf_counter()
    for tar in others:
        direct.run(tar)
    seconds = time.perf_counter() - start
    images = sum(len(peer.keys(tar)) for tar in others)
    peer.report(peer.Rate(name, images, round(seconds, 3), round(images / seconds, 1), f"{NOTE}, after one shard"))
    peer.report_loss(name, options, direct.run_corrupt)


def run_pipeline(executor: str, models: Path, out: Path, tars: list[Path]) -> None:
    """Write the vectors and scores of shards with one of NeMo Curator's executors."""
    if executor == "xenna":
        from nemo_curator.backends.xenna import XennaExecutor as Executor
    else:
        from nemo_curator.backends.ray_data import RayDataExecutor as Executor
    pipeline = Pipeline(name="peer", stages=stages(models, out, _embedding_workers()))
    pipeline.run(Executor(), initial_tasks=[_task(tar) for tar in tars])


def main_pipeline(name: str, options: argparse.Namespace, models: Path) -> None:
    out, executor = options.out / "vectors", options.executor
    run_pipeline(executor, models, out, peer.tars(options.shards, options.images))
    written = [(file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in out.glob("*.parquet")]
    peer.report(peer.Clock(written).steady(name, f"{NOTE}, {_embedding_workers()} embedding workers"))

    def run_corrupt(tars: list[Path]) -> tuple[set[str], str]:
        run_pipeline(executor, models, options.out / "corrupt", tars)
        return {key for tar in tars for key in peer.keys(tar)}, "goes through"

    peer.report_loss(name, options, run_corrupt)


def _embedding_workers() -> int:
    """The cores, less one for each other stage and one for the executor."""
    return max(1, peer.cores() - 6)


def _task(tar: Path) -> Any:
    return FileGroupTask(dataset_name=tar.stem, data=[str(tar)])


def main() -> None:
    parser = peer.parser(__doc__)
    parser.add_argument("--executor", choices=("direct", "xenna", "ray"), default="direct")
    parser.add_argument("--layers", type=int, default=24, help="fewer than ViT-L/14 has, to try this script on a CPU")
    options = peer.parse(parser)
    warnings.filterwarnings("ignore")
    models = options.out / "models"
    make_models(models, options.layers)
    name = f"{NAME} {nemo_curator.__version__}, {options.executor}"
    (main_direct if options.executor == "direct" else main_pipeline)(name, options, models)


if __name__ == "__main__":
    main()
