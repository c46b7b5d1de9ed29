"""`image-curation demo`: real photographs -> raw shards -> the whole graph in Dagster -> a release, read back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from image_curation.cli.tables import print_caution, print_findings, print_ledger, say

if TYPE_CHECKING:
    from image_curation.config import Settings

_INSTANCE = Path(__file__).parents[2] / "dagster.yaml"


def demo(folder: Annotated[Path, typer.Argument(help="where the demo may write")] = Path(".demo")) -> None:
    """Make tar shards of real photographs with planted faults, curate them through Dagster, and look at the result.

    Needs no network, no GPU and no weights: it uses the encoder `embedded`, which is not CLIP.
    """
    from image_curation.audit import ledger_of
    from image_curation.config import load_settings
    from image_curation.curate import AUDITS
    from image_curation.demo.shards import make_demo_shards
    from image_curation.project import Project

    console = Console()
    raw, curated, home = (folder.absolute() / name for name in ("raw", "curated", "dagster"))
    with console.status("making shards of the photographs in scikit-image and scikit-learn"):
        samples = make_demo_shards(raw)
    planted = sum(sample.planted is not None for sample in samples)
    tars = len(list(raw.glob("*.tar")))
    console.print(f"made {len(samples)} samples in {tars} tars, {planted} of them planted faults and twins")
    settings = load_settings(source=str(raw), root=str(curated), encoder="embedded")
    project = Project.load(settings)
    print_caution(console, project)
    _run_graph(settings, home)
    shards = project.selected_shards()
    print_ledger(console, ledger_of(project, shards))
    print_findings(console, {audit.__name__: audit(project, shards) for audit in AUDITS})
    n_read = _read_back(project.release_url)
    say(console, "release", f"  {project.release_url}: webdataset read {n_read:,} samples back")
    say(console, "report", f"   {project.report_url}")
    say(console, "UI", "       make dev, then open http://localhost:3000")


def _run_graph(settings: "Settings", home: Path) -> None:
    """Materialize the whole graph in a Dagster of its own: the library knows nothing of Dagster, so it is called."""
    home.mkdir(parents=True, exist_ok=True)
    if _INSTANCE.exists():
        shutil.copy(_INSTANCE, home)
    else:  # installed from a wheel
        (home / _INSTANCE.name).write_text("telemetry:\n  enabled: false\n")
    given = {f"IMAGE_CURATION_{name.upper()}": getattr(settings, name) for name in ("source", "root", "encoder")}
    environment = os.environ | given | {"DAGSTER_HOME": str(home)}
    result = subprocess.run([sys.executable, "-m", "assets.run"], env=environment, check=False)
    if result.returncode:
        raise typer.Exit(result.returncode)


def _read_back(release_url: str) -> int:
    """Read the release as a training job would, and count."""
    import webdataset

    tars = sorted(str(path) for path in Path(release_url).glob("images/*.tar"))
    samples = (
        webdataset.WebDataset(tars, shardshuffle=False)
        .decode("pil")
        .to_tuple("__key__", "jpg;png;webp;gif;bmp;tif", "json")
    )
    return sum(1 for _ in samples)
