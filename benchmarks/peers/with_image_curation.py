"""This project: shard_index, embeddings, aesthetic and NSFW scores on its own cluster, as `curate` runs them.

    python benchmarks/peers/with_image_curation.py SHARDS OUT [--images N] [--corrupt CORRUPT_SHARDS] [--heads FOLDER]

The rate is that of the whole job, from the first task to the last score in Parquet, after other shards have warmed up
the workers. Scores need the published heads (`image-curation fetch`); without them they are null.
"""

from collections.abc import Sequence
from pathlib import Path

import peer
import safetensors.torch
import torch

from image_curation.artifacts import read_table
from image_curation.audit import null_score_reasons
from image_curation.cluster import Cluster, open_cluster
from image_curation.config import load_settings, resolve_device
from image_curation.curate import shard_stages
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.project import Project
from image_curation.shards.discover import Shard, discover

NAME = "image-curation"
WARM_UP = 0.2  # of the shards


def save_weights(model: str, file: Path) -> None:
    """Random weights as a file: heads take the vectors for those that they were made for."""
    ensure_torchvision()
    import open_clip

    torch.manual_seed(peer.SEED)
    visual = open_clip.create_model(model, force_quick_gelu=True).visual
    safetensors.torch.save_file({f"visual.{name}": tensor for name, tensor in visual.state_dict().items()}, file)


def embed(project: Project, cluster: Cluster, shards: Sequence[Shard]) -> peer.Clock:
    """Take shards through all stages. Tells when they were embedded, and last when all is done."""
    clock = peer.Clock()
    clock.tick(0)
    for done in cluster.run(shard_stages(project), shards):
        if done.error is not None:
            raise done.error
        clock.tick(done.result.artifact.rows if done.stage == "embeddings" else 0)
    return clock


def keys_with_a_vector(project: Project, shards: Sequence[Shard]) -> set[str]:
    done: set[str] = set()
    for shard in shards:
        rows = read_table(project.embeddings_url(shard.key), ["key", "status"]).to_pylist()
        done |= {row["key"] for row in rows if row["status"] == "ok"}
    return done


def main() -> None:
    parser = peer.parser(__doc__)
    parser.add_argument("--heads", type=Path, help="folder with the score heads")
    options = peer.parse(parser)
    weights = options.out / "weights.safetensors"
    save_weights(peer.MODELS[options.model], weights)
    device = resolve_device("auto")
    settings = load_settings(
        source=str(options.shards),
        root=str(options.out / "vectors"),
        encoder=f"clip-{options.model}",
        weights=str(weights),
        heads=options.heads and str(options.heads),
        cluster="cuda" if device == "cuda" else "local",
        workers=1,
    )
    project = Project.load(settings)
    shards = _shards(options.shards, peer.tars(options.shards, options.images))
    warm = max(1, round(WARM_UP * len(shards)))
    with open_cluster(settings) as cluster:
        embed(project, cluster, shards[:warm])
        marks = embed(project, cluster, shards[warm:]).marks
        images, seconds = sum(rows for _, rows in marks), marks[-1][0] - marks[0][0]
        dtype = "bf16" if device == "cuda" else "fp32"
        without = null_score_reasons(project, [shard.key for shard in shards])
        notes = f"{dtype}, whole job on {len(shards) - warm} shards, after {warm} others"
        notes += f", null: {', '.join(without)}" if without else ", with both scores"
        peer.report(peer.Rate(NAME, images, round(seconds, 3), round(images / seconds, 1), notes))

        def embed_corrupt(tars: list[Path]) -> tuple[set[str], str]:
            corrupt = _shards(options.corrupt, tars)
            embed(project, cluster, corrupt)  # in the place of the good ones: so the workers keep their model
            return keys_with_a_vector(project, corrupt), "each bad image has a row with its error"

        peer.report_loss(NAME, options, embed_corrupt)


def _shards(folder: Path, tars: list[Path]) -> list[Shard]:
    names = {tar.name for tar in tars}
    return [shard for shard in discover(str(folder))[0] if Path(shard.url).name in names]


if __name__ == "__main__":
    main()
