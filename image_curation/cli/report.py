"""`image-curation report`: make the report page again from what is there."""

from rich.console import Console

from image_curation.cli.options import Root
from image_curation.cli.tables import say


def report(root: Root) -> None:
    """Make the report page of a curation anew, and say where it is."""
    from image_curation.project import Project
    from image_curation.steps.curation_report import build_curation_report

    project = Project.recall(root)
    build_curation_report(project, project.selected_shards())
    say(Console(), "report", f"   {project.report_url}")
