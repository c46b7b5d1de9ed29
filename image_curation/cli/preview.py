"""`image-curation preview`: what other duplicate thresholds would do."""

from typing import Annotated

import typer
from rich.console import Console

from image_curation.cli.options import Root
from image_curation.cli.tables import print_cuts, say


def preview(
    root: Root,
    sheet: Annotated[
        str | None, typer.Option(help="PNG to write, with the pairs just above and just below the policy's cosine")
    ] = None,
) -> None:
    """Show how many images would go as duplicates at other thresholds than the policy's.

    Counted from the pairs that were found already: nothing is decoded, embedded, searched or decided again.
    """
    from image_curation import storage
    from image_curation.preview import preview_caution, preview_thresholds
    from image_curation.project import Project

    console = Console()
    project = Project.recall(root)
    found = preview_thresholds(project, project.selected_shards())
    print_cuts(console, found)
    if caution := preview_caution(project.policy):
        say(console, "caution", f"  {caution}")
    if sheet is not None:
        from image_curation.report.contact_sheet import pair_sheet_png
        from image_curation.report.pairs import pair_sheets

        storage.write_bytes(sheet, pair_sheet_png(pair_sheets(project, found)))
        say(console, "pairs", f"    {sheet}")
