"""`image-curation curate SOURCE DEST`: the whole job, with a progress bar a step and the ledger at the end."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from image_curation.cli.options import Dest, Encoder, PolicyFile, Source, pairs_of
from image_curation.cli.tables import print_caution, print_findings, print_ledger, say

DONE_WITH_FINDINGS = 3


def curate(
    source: Source,
    dest: Dest,
    encoder: Encoder = None,
    policy: PolicyFile = None,
    weights: Annotated[str | None, typer.Option(help="local weights file of the encoder, or PATH@sha256:HEX")] = None,
    heads: Annotated[str | None, typer.Option(help="folder with the LAION score heads' files")] = None,
    known: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PLACE of a known set that the policy names, once for each; see README, Known images"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda")] = None,
    cluster: Annotated[str | None, typer.Option(help="auto, inline, local, cuda, or tcp://scheduler:port")] = None,
    workers: Annotated[int | None, typer.Option(help="local workers that embed: GPUs, or processes on CPUs")] = None,
) -> None:
    """Curate the shards of SOURCE into DEST: decode, embed, score, deduplicate, select, release.

    What is made already is reused, so running it again costs next to nothing, and after a crash it goes on.
    """
    from image_curation.cluster import open_cluster
    from image_curation.config import load_settings
    from image_curation.curate import curate as run
    from image_curation.project import Project

    console = Console()
    settings = load_settings(
        source=source,
        root=dest,
        encoder=encoder,
        policy=policy,
        weights=weights,
        heads=heads,
        known_sets=pairs_of(known, "PLACE", "--known") if known else None,
        device=device,
        cluster=cluster,
        workers=workers,
    )
    project = Project.load(settings)
    print_caution(console, project)
    with open_cluster(settings) as opened, _Bars(console) as bars:
        result = run(project, opened, bars.update)
    print_ledger(console, result.ledger)
    print_findings(console, result.findings)
    for score, reason in result.null_scores.items():
        say(console, f"no {score} scores", f": {reason}", "yellow")
    for name in result.ignored_files:
        say(console, "ignored", f" {name}: only plain .tar files are read", "yellow")
    for shard, error in result.failed_shards.items():
        say(console, "failed", f" {shard}: {error} Run the same command again to retry it alone.", "red")
    manifest = result.manifest
    say(console, "release", f"  {project.release_url} ({manifest.samples:,} samples in {len(manifest.shards)} tars)")
    say(console, "report", f"   {project.report_url}")
    if result.failed_shards or not all(finding.passed for finding in result.findings.values()):
        raise typer.Exit(DONE_WITH_FINDINGS)


class _Bars(Progress):
    """One bar a step, made when the step begins, with the samples that it makes a second."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        super().__init__(*columns, console=console)
        self._steps: dict[str, TaskID] = {}
        self._first: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> "_Bars":
        super().__enter__()
        return self

    def update(self, step: str, done: int, total: int, samples: int) -> None:  # type: ignore[override]
        """Show how much of a step is done."""
        if step not in self._steps:
            self._steps[step] = self.add_task(step, total=total, rate="")
        super().update(self._steps[step], completed=done, total=total, rate=self._rate(step, samples))

    def _rate(self, step: str, samples: int) -> str:
        """Samples a second since the first shard was made: what came before it was the loading of the model."""
        if not samples:
            return ""
        now = time.monotonic()
        begin, before = self._first.setdefault(step, (now, samples))
        return f"{(samples - before) / (now - begin):,.0f}/s" if samples > before else ""
