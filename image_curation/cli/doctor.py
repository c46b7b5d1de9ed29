"""`image-curation doctor`: what works on this machine."""

import typer
from rich.console import Console
from rich.markup import escape

_MARKS = {"ok": "[green]ok    [/]", "absent": "[yellow]absent[/]", "broken": "[red]BROKEN[/]"}


def doctor() -> None:
    """Say what is installed, whether there is a GPU, whether images can be decoded, and which weights are at hand."""
    from image_curation.doctor import examine

    console, broken = Console(), 0
    for symptom in examine():
        broken += symptom.state == "broken"
        console.print(f"{_MARKS[symptom.state]} {symptom.what:<24} {escape(symptom.said)}", highlight=False)
    if broken:
        console.print(f"[red]{broken} things are broken.[/]")
        raise typer.Exit(1)
