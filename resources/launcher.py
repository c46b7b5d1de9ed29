"""Runs as processes of this machine, and whether the process of a run is still there.

Dagster's own launcher hears of a dead process from the code server that started it. Where that died too, as in a power
cut, the run would be held for started for ever, and would keep its place in the queue.
"""

import re

import psutil
from dagster import DagsterEventType, DagsterRun, DefaultRunLauncher
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

_STARTED = re.compile(r"Started process for run \(pid: (\d+)\)")  # what a code server logs as it starts one


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, which tells run monitoring of runs whose process is gone."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process lives that was started for the run: one with its number, and no younger than it."""
        for entry in self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
            started = _STARTED.search(entry.message)
            if started and not _lives(int(started[1]), entry.timestamp):
                return CheckRunHealthResult(WorkerStatus.FAILED, f"its process {started[1]} is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _lives(pid: int, seen_at: float) -> bool:
    """Whether the process is there that had this number at a time (seconds since 1970); another may have it now."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() < seen_at + 1 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
