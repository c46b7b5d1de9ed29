"""`python -m assets.run`: materialize the whole graph for every tar in the source, without the UI.

It uses the Dagster instance at DAGSTER_HOME, so the UI on the same instance shows the run with all its metadata.
"""

import sys
import uuid
import warnings

import dagster as dg
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from assets.automation import register
from assets.definitions import curation, defs
from assets.discovery import plan
from assets.known import known
from assets.partitions import SHARDS_PER_RUN, range_tags
from assets.tars import partitions_of
from assets.versions import versions
from image_curation.errors import CurationError

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def main() -> int:
    """Register the source's tars as partitions and run the main job over all of them; returns the exit code."""
    console = Console(stderr=True)
    warnings.simplefilter("ignore")  # Dagster's notes on its own features in beta
    with dg.DagsterInstance.get() as instance, _Steps(console) as steps:
        try:
            keys = _register(instance)
        except CurationError as error:
            console.print(str(error), style="red", markup=False)
            return 1
        run_id = str(uuid.uuid4())
        instance.add_event_listener(run_id, steps.see)
        job = defs.resolve_job_def("curate")
        result = job.execute_in_process(
            run_config=_QUIET, instance=instance, run_id=run_id, tags=range_tags(keys), raise_on_error=False
        )
    return 0 if result.success else 1


def _register(instance: dg.DagsterInstance) -> list[str]:
    """Make the partitions those of the source, and return them in the order of their registration."""
    found = partitions_of(curation.settings())
    before = known(instance, instance.get_dynamic_partitions("shards"))
    register(instance, plan(found, before, versions(curation.project()), stale=True, shards_per_run=SHARDS_PER_RUN))
    return list(instance.get_dynamic_partitions("shards"))


class _Steps(Progress):
    """A line a step: spinning while it runs, with a mark when it is done."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks_by_step: dict[str, TaskID] = {}

    def __enter__(self) -> "_Steps":
        super().__enter__()
        return self

    def see(self, entry: dg.EventLogEntry) -> None:
        """Show what an event of the run says."""
        event = entry.dagster_event
        if event is None or event.step_key is None:
            return
        if event.event_type == dg.DagsterEventType.STEP_START:
            self._tasks_by_step[event.step_key] = self.add_task(event.step_key, total=1)
        elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            self.update(self._tasks_by_step[event.step_key], completed=1)
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            self.remove_task(self._tasks_by_step.pop(event.step_key))
            self.console.print(f"✗ {event.step_key} failed: {_reason(event)}", style="red", markup=False)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed:
                self.console.print(f"✗ {check.check_name}: {check.description}", style="yellow", markup=False)


def _reason(event: dg.DagsterEvent) -> str:
    """Why a step failed, in the words of the error, without its traceback, which the UI has."""
    failure = event.step_failure_data
    if failure.user_failure_data and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    if failure.error is None:
        return "for no known reason; the log in the UI may say more"
    return str((failure.error.cause or failure.error).message).strip()


if __name__ == "__main__":
    sys.exit(main())
