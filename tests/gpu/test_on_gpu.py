"""What the project does on a GPU, against the same on the CPU. Skipped where there is no GPU."""

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_curation.artifacts import read_artifact, read_table
from image_curation.audit import ledger_adds_up, shard_ledger, vectors_have_samples, vectors_have_unit_norm
from image_curation.cluster import DaskCluster, Stage, open_cluster
from image_curation.config import gpu_count, load_settings, resolve_device
from image_curation.curate import curate
from image_curation.decode.decoder import ImageDecoder
from image_curation.decode.jpeg import looked_into
from image_curation.decode.limits import DecodeLimits
from image_curation.demo.shards import make_demo_shards
from image_curation.embedding import vectors_of
from image_curation.encoders import load_encoder, profile
from image_curation.errors import ImageError
from image_curation.project import Project
from image_curation.shards.discover import discover
from image_curation.shards.header import Header, read_header
from image_curation.shards.index import index_shard
from image_curation.storage import read_ranges

pytestmark = pytest.mark.skipif(resolve_device("auto") != "cuda", reason="no GPU on this machine")


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[bytes]:
    images = []
    for shard in discover(str(shared_data / "photos"))[0]:
        rows = index_shard(shard, DecodeLimits()).table.to_pylist()
        images += read_ranges(shard.url, [(row["image_offset"], row["image_size"]) for row in rows])
    return images


@pytest.fixture(scope="module")
def on_cpu() -> ImageDecoder:
    return ImageDecoder(224, "cpu")


@pytest.fixture(scope="module")
def on_gpu() -> ImageDecoder:
    return ImageDecoder(224, "cuda")


def told(images: list[bytes]) -> list[Header | None]:
    """The headers of images, with whether they are damaged inside, as the index has them; None where there is none."""
    headers: list[Header | None] = []
    for image in images:
        try:
            headers.append(looked_into(read_header(image), image))
        except ImageError:
            headers.append(None)
    return headers


def test_hostile_images_have_the_same_fate_on_the_gpu_as_on_the_cpu(
    shared_data: Path, photos: list[bytes], on_cpu: ImageDecoder, on_gpu: ImageDecoder
) -> None:
    folder = shared_data / "hostile-images"
    with open(folder / "manifest.csv", newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    good = photos[: len(names)]
    mixed = [
        image
        for pair in zip([(folder / "files" / name).read_bytes() for name in names], good, strict=False)
        for image in pair
    ]
    cpu, gpu = on_cpu.decode(mixed), on_gpu.decode(mixed, told(mixed))
    differing = sorted(set(cpu.errors) ^ set(gpu.errors))
    print(f"{len(mixed)} images: {len(cpu.errors)} fail on the CPU, {len(gpu.errors)} on the GPU; differing:")
    for row in differing:
        print(f"  {names[row // 2]}: CPU {cpu.errors.get(row, 'ok')}, GPU {gpu.errors.get(row, 'ok')}")
    assert differing == []
    assert [facts.damaged for facts in gpu.facts] == [facts.damaged for facts in cpu.facts]
    assert set(range(1, 2 * min(len(names), len(good)), 2)).isdisjoint(gpu.errors), "a good photo was lost"
    again = on_gpu.decode(good)
    beside_hostile = gpu.pixels[np.isin(gpu.rows, np.arange(1, 2 * len(good), 2))]
    assert (again.pixels == beside_hostile).all(), "a bad neighbour changed a good photo's pixels"


def test_gpu_pixels_are_near_those_of_the_cpu(photos: list[bytes], on_cpu: ImageDecoder, on_gpu: ImageDecoder) -> None:
    cpu, gpu = on_cpu.decode(photos), on_gpu.decode(photos)
    assert cpu.rows.tolist() == gpu.rows.tolist()
    distance = np.abs(cpu.pixels.astype(np.int16) - gpu.pixels.cpu().numpy()).mean(axis=(1, 2, 3))
    bits = np.bitwise_count(cpu.measures["phash"] ^ gpu.measures["phash"])
    decoders = {facts.decoder for facts in gpu.facts}
    print(
        f"{len(photos)} photos by {decoders}: grey levels mean {distance.mean():.3f}, worst {distance.max():.3f}; "
        f"phash bits mean {bits.mean():.2f}, worst {bits.max()}"
    )
    assert distance.mean() < 0.6
    assert distance.max() < 3
    assert bits.max() <= 4


@pytest.mark.parametrize("name", ["clip-vit-b-32", "clip-vit-l-14"])
def test_bf16_vectors_on_the_gpu_agree_with_fp32_on_the_cpu(
    name: str, photos: list[bytes], on_cpu: ImageDecoder, on_gpu: ImageDecoder
) -> None:
    chosen = profile(name)
    images = photos[: 64 if name == "clip-vit-b-32" else 16]
    cpu = load_encoder(chosen, "cpu", "random:0").encode(on_cpu.decode(images).pixels)
    gpu = load_encoder(chosen, "cuda", "random:0").encode(on_gpu.decode(images).pixels)
    cosines = (cpu.astype(np.float64) * gpu).sum(axis=1)
    others = cpu.astype(np.float64) @ cpu.T.astype(np.float64)
    np.fill_diagonal(others, np.nan)
    print(
        f"{name}, {len(images)} photos: cosine CPU/GPU mean {cosines.mean():.5f}, min {cosines.min():.5f}; "
        f"between photos mean {np.nanmean(others):.4f}"
    )
    assert cosines.mean() > 0.999
    assert cosines.min() > 0.995


def test_gpu_stages_run_one_worker_a_gpu_and_cpu_stages_where_no_gpu_is_seen(tmp_path: Path) -> None:
    def place(_: int) -> tuple[int, int]:
        """The process, and the GPUs that it sees."""
        time.sleep(0.05)
        return os.getpid(), gpu_count()

    stages = [Stage("index", place), Stage("embed", place, "gpu"), Stage("score", place)]
    with open_cluster(load_settings(source="/raw", root=str(tmp_path), cluster="cuda")) as cluster:
        done = list(cluster.run(stages, range(60)))
    assert [str(one.error) for one in done if one.error] == []
    places = {name: {one.result for one in done if one.stage == name} for name in ("index", "embed", "score")}
    print(f"{len(places['embed'])} GPU workers, {len(places['index'] | places['score'])} CPU workers")
    assert {gpus for _, gpus in places["index"] | places["score"]} == {0}
    assert {gpus for _, gpus in places["embed"]} == {gpu_count()}
    assert len(places["embed"]) == gpu_count()


def test_curating_photos_with_clip_on_dask_cuda_also_when_a_gpu_worker_is_killed(
    shared_data: Path, tmp_path: Path
) -> None:
    def curated(root: str, on_progress: Callable[[Any, str, int], None]) -> Project:
        settings = load_settings(
            source=str(shared_data / "photos"),
            root=str(tmp_path / root),
            encoder="clip-vit-l-14",
            weights="random:0",
            cluster="cuda",
        )
        project = Project.load(settings)
        with open_cluster(settings) as cluster:
            assert isinstance(cluster, DaskCluster)
            client = cluster.client
            result = curate(project, cluster, lambda step, done, *_: on_progress(client, step, done))
        assert result.failed_shards == {}
        assert all(finding.passed for finding in result.findings.values()), result.findings
        assert result.ledger.failed == {}
        return project

    project = curated("undisturbed", lambda _, step, done: print(f"{step} {done}"))
    for shard in project.selected_shards():
        artifact = read_artifact(project.embeddings_url(shard))
        assert artifact.certificate.settings["dtype"] == "bf16"
        assert vectors_of(read_table(artifact.url, ["vector"])).shape == (artifact.rows, 768)

    killed: list[int] = []

    def kill(client: Any, step: str, done: int) -> None:
        if (step, done) == ("embeddings", 1):
            processes = client.run(os.getpid)
            at_work = [worker for worker, tasks in client.processing().items() if any("embeddings" in t for t in tasks)]
            os.kill(processes[at_work[0]], signal.SIGKILL)
            killed.append(done)

    curated("disturbed", kill)
    assert killed == [1]
    assert hashes(tmp_path / "disturbed") == hashes(tmp_path / "undisturbed")


def hashes(root: Path) -> dict[str, str]:
    """Path below the root -> SHA-256, of all but the settings and the report, which name the root."""
    paths = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    assert len(paths) > 20
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in paths.items()
        if name not in ("image-curation.json", "report/report.html")
    }


def test_whole_graph_through_dagster_on_the_gpu(tmp_path: Path) -> None:
    make_demo_shards(tmp_path / "raw")
    home = tmp_path / "dagster"
    home.mkdir()
    places = {
        "DAGSTER_HOME": str(home),
        "IMAGE_CURATION_SOURCE": str(tmp_path / "raw"),
        "IMAGE_CURATION_ROOT": str(tmp_path / "curated"),
        "IMAGE_CURATION_ENCODER": "clip-vit-b-32",
        "IMAGE_CURATION_WEIGHTS": "random:0",
    }
    run = subprocess.run([sys.executable, "-m", "assets.run"], env=os.environ | places, capture_output=True, text=True)
    print(run.stderr[-3000:])
    assert run.returncode == 0
    project = Project.recall(str(tmp_path / "curated"))
    shards = project.selected_shards()
    for audit in (ledger_adds_up, vectors_have_samples, vectors_have_unit_norm):
        assert audit(project, shards).passed
    failed = {status for shard in shards for status in shard_ledger(project, shard).failed}
    assert failed == {"decode_failed", "empty_image", "missing_image", "not_an_image", "too_many_pixels"}
