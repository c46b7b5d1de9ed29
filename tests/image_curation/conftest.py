"""The demo's shards, curated once for all tests that only read; and tools to make tars, curate them and compare."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_curation.artifacts import read_table
from image_curation.cluster import open_cluster
from image_curation.config import load_settings
from image_curation.curate import Curated, OnProgress, curate
from image_curation.demo.shards import DemoSample, make_demo_shards
from image_curation.project import Project


@dataclass(frozen=True)
class Demo:
    """The demo's samples as planted, its tars, and what a curation of them came to. Only to be read."""

    samples: list[DemoSample]
    raw: Path
    root: Path
    project: Project
    result: Curated


class Workshop:
    """Tools for tests, which cannot import from each other under importlib mode."""

    @staticmethod
    def photo(seed: int, size: tuple[int, int] = (120, 90), kind: str = "JPEG", **options: object) -> bytes:
        """A picture of its own: soft random colours, unlike those of any other seed."""
        coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        sink = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(sink, kind, **options)
        return sink.getvalue()

    @staticmethod
    def tar(members: Mapping[str, bytes]) -> bytes:
        """Member name -> content, as the bytes of a tar."""
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return sink.getvalue()

    @classmethod
    def source(cls, folder: Path, shards: Mapping[str, Mapping[str, bytes] | bytes]) -> Path:
        """Shard name -> its members, or bytes that are no tar; written below `folder`."""
        for name, content in shards.items():
            path = folder / f"{name}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else cls.tar(content))
        return folder

    @staticmethod
    def project(source: Path, root: Path, policy: str | None = None, **settings: object) -> Project:
        """A project that runs inline, with a policy given as YAML."""
        if policy is not None:
            path = root.parent / f"{root.name}-policy.yaml"
            path.write_text(policy)
            settings["policy"] = str(path)
        given = {"encoder": "embedded", "cluster": "inline", "device": "cpu"} | settings
        return Project.load(load_settings(source=str(source), root=str(root), **given))

    @staticmethod
    def run(project: Project, report: bool = False, on_progress: OnProgress = lambda *_: None) -> Curated:
        """Curate. Drawing the report takes longer than all the rest, so it is left out unless asked for."""
        with open_cluster(project.settings) as cluster, pytest.MonkeyPatch.context() as patch:
            if not report:
                patch.setattr("image_curation.curate.build_curation_report", lambda *_: None)
            return curate(project, cluster, on_progress)

    HISTORY = ("image-curation.json", "duplicate_groups/embedded/blocks")
    """Below a root, what tells where it lies, and which shards came together."""

    @staticmethod
    def hashes(folder: Path, *without: str) -> dict[str, str]:
        """Path below the folder -> SHA-256, of all files but those whose path begins with one of `without`."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        assert paths, f"there is nothing in {folder}"
        found = {str(path.relative_to(folder)): path for path in paths}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in found.items()
            if not name.startswith(without or ("\0",))
        }

    @staticmethod
    def times(folder: Path) -> dict[str, int]:
        """Path below the folder -> when it was last written, in nanoseconds."""
        return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    @staticmethod
    def decisions(project: Project) -> dict[tuple[str, str], dict[str, object]]:
        """(shard, key) -> its row of the selection, of all shards."""
        rows = [row for s in project.selected_shards() for row in read_table(project.selection_url(s)).to_pylist()]
        return {(row["shard"], row["key"]): row for row in rows}


@pytest.fixture(scope="session")
def workshop() -> type[Workshop]:
    return Workshop


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("curated-demo")
    raw, root = folder / "raw", folder / "curated"
    samples = make_demo_shards(raw)
    project = Workshop.project(raw, root)
    return Demo(samples, raw, root, project, Workshop.run(project, report=True))
