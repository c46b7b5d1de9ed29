"""Report shards to Dagster one by one, each as soon as it is done, so that what was done outlives the run's process."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata

from assets.made import Made, made
from assets.metadata import Metadata
from assets.versions import PARENTS, versions
from image_curation.project import Project

_EVERY_S = 0.5


class Recorder:
    """Records shards of one asset, with what they were made of, by which Dagster later tells what is stale.

    Dagster itself would record all shards of a step when the step has ended, with one and the same provenance.
    """

    def __init__(self, context: dg.AssetExecutionContext, project: Project) -> None:
        self._context = context
        self._asset = context.asset_key.path[-1]
        self._code = versions(project)[self._asset]
        self._parents = {parent: made(context.instance, parent) for parent in PARENTS[self._asset]}
        self._before = made(context.instance, self._asset)
        self._waiting: deque[dg.AssetMaterialization] = deque()
        self._pointers = {parent: _latest_events(context.instance, parent) for parent in self._parents}

    def left(self, tars: Mapping[str, str]) -> set[str]:
        """Which of these shards (shard -> version of its tar) are to be done.

        All, but for a run that goes on where another failed: there, what that one has recorded is left as it is.
        """
        if "dagster/is_resume_retry" not in self._context.run.tags:
            return set(tars)
        return {key for key, tar in tars.items() if not self._holds(key, tar)}

    def tars(self, keys: list[str]) -> dict[str, str]:
        """Shard -> the version of the tar that its parents were made of; empty where they were made of several."""
        return {key: self._tar(key) for key in keys}

    def changed(self, key: str, content: str) -> bool:
        """Whether the shard is not recorded with this content, made as it is made now."""
        return self._before.get(key) != Made.parse(str(Made(self._tar(key), self._code, content)))

    def record(self, key: str, metadata: Metadata, content: str, tar: str | None = None) -> None:
        """Materialize one shard in Dagster's log, within `writing`.

        Args:
            content: a hash of its rows.
            tar: the version of its tar; None: that of its parents.
        """
        version = str(Made(self._tar(key) if tar is None else tar, self._code, content))
        tags = {"dagster/code_version": self._code, "dagster/data_version": version}
        tags["dagster/data_version_is_user_provided"] = "true"
        for parent, shards in self._parents.items():
            tags[f"dagster/input_data_version/{parent}"] = str(shards.get(key, "NULL"))
            tags[f"dagster/input_event_pointer/{parent}"] = str(self._pointers[parent].get(key, "NULL"))
        self._waiting.append(
            dg.AssetMaterialization(self._context.asset_key, partition=key, metadata=metadata, tags=tags)
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write what the body records: beside it, on a thread; the rest when it ends, also by an error.

        What comes within half a second is written together: each time of writing costs as much as some ten shards.
        """
        ended = Event()
        with ThreadPoolExecutor(1, thread_name_prefix="recorder") as thread:
            writer = thread.submit(self._write_until, ended)
            try:
                yield
            finally:
                ended.set()
        writer.result()

    def _write_until(self, ended: Event) -> None:
        while not ended.wait(_EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        name, context = uuid4().hex, self._context.op_execution_context
        for n, one in enumerate(batch, 1):
            # What `context.log_event` does, but for the name of the batch, which it cannot be given.
            in_batch = DagsterEventBatchMetadata(name, is_end=n == len(batch))
            context._events.append(DagsterEvent.asset_materialization(context._step_execution_context, one, in_batch))

    def _holds(self, key: str, tar: str) -> bool:
        before = self._before.get(key)
        return before is not None and (before.tar, before.code) == (tar, self._code)

    def _tar(self, key: str) -> str:
        tars = {shards[key].tar if key in shards else "" for shards in self._parents.values()}
        return tars.pop() if len(tars) == 1 else ""


def recorded(failed: Mapping[str, str], of: int) -> dg.MaterializeResult[None]:
    """The end of a step that has recorded its shards by itself: Dagster is to record none of them again.

    Dagster knows such steps: its own observations of sources report themselves too, and say so by this metadata.

    Raises:
        Failure: some shards failed; the text says which and why.
    """
    if not failed:
        return dg.MaterializeResult(metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})
    raise dg.Failure(
        f"{len(failed)} of {of} shards failed; the others are recorded. Retry these alone: "
        + "; ".join(f"{key} ({error})" for key, error in list(failed.items())[:5]),
        metadata={"failed_shards": dg.MetadataValue.json(dict(failed))},
        allow_retries=False,
    )


def _latest_events(instance: dg.DagsterInstance, asset: str) -> Mapping[str, int]:
    """Shard -> the number of its latest materialization in Dagster's log."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    return instance.event_log_storage.get_latest_storage_id_by_partition(dg.AssetKey(asset), kind)
