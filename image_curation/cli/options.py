"""Options that several commands share."""

from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(help="folder or URL with tar shards, or one tar: ./raw, s3://bucket/raw")]
Dest = Annotated[str, typer.Argument(help="folder or URL for artifacts, release and report")]
Root = Annotated[
    str, typer.Option("--root", "-r", envvar="IMAGE_CURATION_ROOT", help="the DEST that `curate` was given")
]
Encoder = Annotated[
    str | None,
    typer.Option(help="clip-vit-l-14, clip-vit-b-32, embedded, open_clip:MODEL/WEIGHTS, timm:NAME or onnx:PATH"),
]
PolicyFile = Annotated[str | None, typer.Option("--policy", help="policy YAML; see `image-curation policy`")]


def pairs_of(given: list[str], value: str, option: str, may_be_empty: bool = False) -> dict[str, str]:
    """Name -> value of each `NAME=VALUE` that an option was given, where `value` is what messages call it.

    Raises:
        BadParameter: one has no name, no `=`, or nothing behind it where that may not be.
    """
    found = {}
    for text in given:
        name, equals, behind = text.partition("=")
        if not name or not equals or not (behind or may_be_empty):
            raise typer.BadParameter(f"{text!r} should be NAME={value}.", param_hint=option)
        found[name] = behind
    return found
