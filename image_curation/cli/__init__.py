"""The command line `image-curation`: one command a file, errors as sentences, exit codes that scripts can use.

Exit codes: 0 all is well; 1 it could not be done, and the text says why and what to do; 2 the command was called
wrongly; 3 it was done, but some shards failed or an audit found something.
"""

import sys

import typer
from rich.console import Console
from rich.text import Text

from image_curation.errors import CurationError

app = typer.Typer(
    name="image-curation",
    help="Raw image-text tar shards in, a training set out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run a command. What goes wrong for a known reason is told in a sentence, not a traceback."""
    from image_curation.cli import curate, demo, doctor, export, fetch, inspect, policy, preview, report, train, why

    commands = (
        demo.demo,
        curate.curate,
        inspect.inspect,
        why.why,
        preview.preview,
        report.report,
        train.train,
        export.export,
        policy.policy,
        fetch.fetch,
        doctor.doctor,
    )
    for command in commands:
        app.command()(command)
    try:
        app()
    except CurationError as error:
        said = Text.assemble(("error", "bold red"), f" {type(error).__name__}: {error}")
        Console(stderr=True).print(said, soft_wrap=True)
        sys.exit(1)
