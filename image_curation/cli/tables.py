"""Ledgers, audits and failures as tables in the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_curation.audit import Finding
from image_curation.ledger import Ledger
from image_curation.project import Project

if TYPE_CHECKING:  # scipy takes a while, and only `preview` needs it
    from image_curation.duplicates.preview import Cut, Thresholds
    from image_curation.preview import Preview


def print_ledger(console: Console, ledger: Ledger) -> None:
    """What became of every sample, with the sum at the end."""
    table = Table(title="Ledger", title_justify="left", show_footer=True)
    table.add_column("fate", footer="read")
    table.add_column("reason", footer="= kept + dropped + failed" if ledger.adds_up else "THE SUMS DO NOT AGREE")
    table.add_column("samples", justify="right", footer=f"{ledger.read:,}")
    table.add_row("[green]kept", "", f"{ledger.kept:,}")
    for reason, n in ledger.dropped.items():
        table.add_row("[yellow]dropped", reason.replace("_", " "), f"{n:,}")
    for reason, n in ledger.failed.items():
        table.add_row("[red]failed", reason.replace("_", " "), f"{n:,}")
    console.print(table)


def print_cuts(console: Console, preview: "Preview") -> None:
    """What other duplicate thresholds would do, the policy's own marked."""
    cosines = ["not used" if (t := cut.thresholds.min_similarity) is None else f"{t:g}" for cut in preview.by_cosine]
    bits = ["not used" if (t := cut.thresholds.max_distance) is None else f"{t}" for cut in preview.by_distance]
    console.print(_cut_table("Duplicates from cosine", "cosine", cosines, preview.by_cosine, preview.chosen))
    console.print(_cut_table("Duplicates up to perceptual distance", "bits", bits, preview.by_distance, preview.chosen))


def _cut_table(title: str, what: str, values: Sequence[str], cuts: "Sequence[Cut]", chosen: "Thresholds") -> Table:
    table = Table(title=title, title_justify="left")
    for name in (what, "images go", "groups", "largest", "its least alike"):
        table.add_column(name, justify="right")
    table.add_column()
    for value, cut in zip(values, cuts, strict=True):
        least = "" if cut.least_alike is None else f"{cut.least_alike:.4f}"
        own = cut.thresholds == chosen
        row = (value, f"{cut.goes:,}", f"{cut.groups:,}", f"{cut.largest:,}", least, "policy" if own else "")
        table.add_row(*row, style="bold green" if own else None)
    return table


def print_caution(console: Console, project: Project) -> None:
    """What to know of the encoder before trusting what follows."""
    if project.profile.caution:
        console.print(Text(project.profile.caution, style="yellow"))


def say(console: Console, word: str, text: str, style: str = "") -> None:
    """A line whose paths and brackets come out as they are, whatever the width."""
    console.print(Text.assemble((word, style), text), soft_wrap=True)


def print_findings(console: Console, findings: Mapping[str, Finding]) -> None:
    """Each audit with its sentence."""
    for name, finding in findings.items():
        mark = Text("ok  ", style="green") if finding.passed else Text("LOOK", style="bold red")
        console.print(Text.assemble(mark, f" {name.replace('_', ' ')}: {finding.sentence}"))
