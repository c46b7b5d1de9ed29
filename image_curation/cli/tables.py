"""Ledgers, audits and failures as tables in the terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_curation.audit import Finding
from image_curation.ledger import Ledger
from image_curation.project import Project


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
