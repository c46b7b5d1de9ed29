"""The demo's photographs, small tars made of them, and the graph in a Dagster instance of its own."""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.definitions import defs
from assets.made import Made, tar_version
from assets.partitions import range_tags
from assets.versions import versions
from image_curation.artifacts import read_artifact
from image_curation.cluster import InlineCluster
from image_curation.config import load_settings
from image_curation.curate import curate
from image_curation.demo.shards import DemoSample, make_demo_shards
from image_curation.project import Project
from image_curation.steps.duplicate_versions import twins_by_shard

defs.resolve_all_job_defs()  # once, before any test enters an instance: Dagster asks the one that was entered last
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

AUDIT_JOB = dg.define_asset_job(
    "audit", selection=dg.AssetSelection.all_asset_checks(), executor_def=dg.in_process_executor
)
"""Nothing but the checks: they look at what lies there, so a test can tamper with it first."""


@dataclass(frozen=True)
class Demo:
    """The demo's tars, and what is planted in them."""

    folder: Path
    samples: tuple[DemoSample, ...]

    def plain(self) -> list[str]:
        """Keys of photographs that no rule drops and that nothing was made of."""
        originals = {sample.of for sample in self.samples}
        return [s.key for s in self.samples if s.planted is None and s.key not in originals]

    def twins(self, kind: str) -> list[tuple[str, str]]:
        """(key of a copy of this kind, key of its original)."""
        return [(s.key, s.of) for s in self.samples if s.planted == kind and s.of]

    def pack(self, tar: Path, *keys: str) -> None:
        """Write a tar of these samples."""
        tar.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as out:
            for key in keys:
                (home,) = [sample.shard for sample in self.samples if sample.key == key]
                with tarfile.open(self.folder / f"{home}.tar") as source:
                    for member in source:
                        if member.name.partition(".")[0] == key:
                            out.addfile(member, source.extractfile(member))


@dataclass(frozen=True)
class Graph:
    """The graph over one source and one root."""

    instance: dg.DagsterInstance
    source: Path
    root: Path

    @property
    def project(self) -> Project:
        return Project.load(load_settings())

    def register(self, *keys: str) -> None:
        self.instance.add_dynamic_partitions("shards", list(keys))

    def run(
        self, *keys: str, only: Sequence[str] = (), tags: Mapping[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run the job over these shards, which were registered one after the other; `only` some assets of it."""
        return defs.resolve_job_def("curate").execute_in_process(
            instance=self.instance,
            tags=tags or range_tags(keys),
            asset_selection=[dg.AssetKey(name) for name in only] or None,
            run_config=QUIET,
            raise_on_error=False,
        )

    def prepare(self, *keys: str) -> None:
        """Have everything made without Dagster and tell Dagster so: much quicker than a run."""
        curate(self.project, InlineCluster(), lambda *_: None)
        self.register(*keys)
        code, twins = versions(self.project), twins_by_shard(self.project)
        for key in keys:
            index = read_artifact(self.project.index_url(key))
            tar = tar_version(index.certificate.inputs["tar"])
            contents = {
                "shard_index": index.content,
                "embeddings": read_artifact(self.project.embeddings_url(key)).content,
                "aesthetic_scores": read_artifact(self.project.scores_url("aesthetic", key)).content,
                "nsfw_scores": read_artifact(self.project.scores_url("nsfw", key)).content,
                "known_matches": "none",
                "duplicate_groups": twins[key].content,
                "selection": read_artifact(self.project.selection_url(key)).content,
            }
            for asset, content in contents.items():
                tags = {"dagster/data_version": str(Made(tar, code[asset], content))}
                self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key, tags=tags))

    def audit(self) -> dict[str, dg.AssetCheckEvaluation]:
        """Run the asset checks alone; by name."""
        job = dg.Definitions.merge(defs, dg.Definitions(jobs=[AUDIT_JOB])).resolve_job_def("audit")
        result = job.execute_in_process(instance=self.instance, run_config=QUIET)
        return {check.check_name: check for check in result.get_asset_check_evaluations()}

    def released(self) -> dict[str, Any]:
        """The ledger of the release."""
        ledger: dict[str, Any] = json.loads((self.root / "release" / "manifest.json").read_text())["ledger"]
        return ledger

    def done(self, asset: str) -> set[str]:
        """Partitions that Dagster holds for materialized."""
        return set(self.instance.get_materialized_partitions(dg.AssetKey(asset)))


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    return Demo(folder, tuple(make_demo_shards(folder)))


@pytest.fixture(scope="module")
def settings_from_environment() -> Iterator[pytest.MonkeyPatch]:
    """No setting of whoever runs the tests gets in; heavy steps run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("IMAGE_CURATION_")]:
            patch.delenv(name)
        patch.setenv("IMAGE_CURATION_CLUSTER", "inline")
        yield patch


@pytest.fixture
def graph(tmp_path, settings_from_environment) -> Iterator[Graph]:
    """The graph over an empty source."""
    source, root = tmp_path / "raw", tmp_path / "curated"
    source.mkdir()
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        patch.setenv("IMAGE_CURATION_SOURCE", str(source))
        patch.setenv("IMAGE_CURATION_ROOT", str(root))
        yield Graph(instance, source, root)


@pytest.fixture
def garbage() -> bytes:
    """No tar at all."""
    return io.BytesIO(b"<html>502 Bad Gateway</html>" * 100).getvalue()
