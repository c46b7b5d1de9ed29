"""The `cluster` resource: where heavy steps run, an embedded Dask cluster by default, kept for the whole run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from image_curation.cluster import Cluster, Done, Stage, open_cluster
from resources.curation import Curation


class DaskResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Opens the cluster that the settings name when a step first needs it, and closes it when the run ends."""

    curation: dg.ResourceDependency[Curation]
    _stack: ExitStack = PrivateAttr(default_factory=ExitStack)
    _cluster: Cluster | None = PrivateAttr(None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["DaskResource"]:
        """Close whatever was opened, also when the run fails or is cancelled."""
        with self._stack:
            yield self

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Done]:
        """Take `items` through `stages` on the cluster; see `image_curation.cluster.Cluster.run`."""
        if self._cluster is None:
            self._cluster = self._stack.enter_context(open_cluster(self.curation.settings()))
        return self._cluster.run(stages, items)
