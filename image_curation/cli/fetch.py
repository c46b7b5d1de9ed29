"""`image-curation fetch ENCODER`: weights and score heads onto this machine, before a run needs them."""

from typing import Annotated

import typer
from rich.console import Console


def fetch(encoder: Annotated[str, typer.Argument(help="an encoder, e.g. clip-vit-l-14")]) -> None:
    """Download the weights of an encoder, and the score heads that fit it, checked against their pinned checksums."""
    from image_curation.encoders import load_encoder, profile
    from image_curation.heads import HEADS, fetch_head

    console = Console()
    loaded = load_encoder(profile(encoder))
    console.print(f"[green]ok[/] encoder {encoder}, weights sha256 {loaded.weights_sha256}", highlight=False)
    for kind, space in HEADS:
        if space == loaded.profile.vector_space:
            console.print(f"[green]ok[/] {kind} head at {fetch_head(kind, space)}", highlight=False)
