"""`curation_report`: all artifacts -> one self-contained page to look at."""

from collections.abc import Sequence

from image_curation import storage
from image_curation.project import Project
from image_curation.report.data import ReportData
from image_curation.report.gather import gather
from image_curation.report.page import render_report


def build_curation_report(project: Project, shards: Sequence[str]) -> ReportData:
    """Write the report page and return what it shows.

    Raises:
        ArtifactError: a shard has no selection yet.
    """
    data = gather(project, shards)
    storage.write_bytes(project.report_url, render_report(data).encode())
    return data
