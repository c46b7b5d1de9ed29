"""`image-curation train PLACE OUT`: a classifier from a release, under torchrun from as many processes as it starts."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from image_curation.cli.options import pairs_of
from image_curation.cli.tables import say


def train(
    place: Annotated[str, typer.Argument(help="a release, a folder of tars, or a folder with one folder a class")],
    out: Annotated[str, typer.Argument(help="folder or URL for the model, its card, the log and the checkpoint")],
    model: Annotated[str, typer.Option(help="any name of timm: resnet50, efficientnet_b0, ...")] = "resnet50",
    label_field: Annotated[str, typer.Option(help="of tars: cls (the .cls sidecar) or a field of the JSON")] = "cls",
    val: Annotated[str | None, typer.Option(help="a place like PLACE to validate with")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option(help="images a step, for each process")] = None,
    image_size: Annotated[int | None, typer.Option(help="side of the square in pixels")] = None,
    lr: Annotated[float | None, typer.Option(help="highest learning rate, for 256 images a step")] = None,
    augmentation: Annotated[str | None, typer.Option(help="none, auto or trivial")] = None,
    loader: Annotated[str | None, typer.Option(help="dali, proxy or synthetic")] = None,
    check: Annotated[str | None, typer.Option(help="decode: look at all images before; none: trust them")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of any other setting; `--set help` lists them all")
    ] = None,
) -> None:
    """Train an image classifier on PLACE. Killed and run again, it goes on from its last checkpoint.

    On several GPUs: torchrun --nproc-per-node 4 -m image_curation train PLACE OUT.
    """
    from image_curation.training.config import TrainConfig
    from image_curation.training.loop import train as run

    console = Console(stderr=False)
    if set_ == ["help"]:
        _list_settings(console)
        return
    named: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "image_size": image_size, "lr": lr}
    named |= {"augmentation": augmentation, "loader": loader, "check": check}
    others = pairs_of(set_ or [], "VALUE", "--set", may_be_empty=True)
    config = _config(TrainConfig, {"model": model, "label_field": label_field, **_given(named), **others})
    with _Bar(console) as bar:
        trained = run(place, out, config, val, device, bar.show)
    if bar.began:  # the first process
        manifest = trained.card["source"].get("manifest_sha256")
        of = f" of the release {manifest[:12]}" if manifest else ""
        say(console, "model", f"  {out}/model.safetensors: {trained.card['images']:,} images{of}")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _config(kind: Any, values: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from image_curation.errors import ConfigError

    try:
        return kind(**values)
    except ValidationError as error:
        wrong = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(
            "settings of the training are wrong; `--set help` lists them:\n" + "\n".join(wrong)
        ) from error


def _list_settings(console: Console) -> None:
    from image_curation.training.config import TrainConfig

    for name, field in TrainConfig.model_fields.items():
        say(console, name, f"={field.default}  {field.description or ''}", "bold")


class _Bar(Progress):
    """One bar over all steps, and a line for what begins, each validation and, outside of a terminal, each report."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("train"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, TextColumn("{task.fields[now]}"), console=console)
        self.began = False

    def show(self, event: Any) -> None:
        """Show an event of the training."""
        if event["event"] == "start":
            self.began = True
            self._task = self.add_task("train", total=event["steps"], completed=event["step"], now="")
            self._say_start(event)
        elif event["event"] == "train":
            now = f"loss {event['loss']:.3f}  accuracy {event['accuracy']:.3f}  {event['images_per_s']:,.0f} images/s"
            self.update(self._task, completed=event["step"], now=now)
            if not self.console.is_terminal:
                say(self.console, "train", f"       step {event['step']:,}  {now}")
        elif event["event"] == "validation":
            text = f"  epoch {event['epoch']}: loss {event['loss']:.3f}, accuracy {event['accuracy']:.4f}"
            say(self.console, "validation", text)

    def _say_start(self, event: Any) -> None:
        begin = f"from step {event['step']:,}" if event["step"] else "from the start"
        text = f"       {event['images']:,} images of {event['classes']:,} classes, {event['processes']} x "
        say(self.console, "train", f"{text}{event['device']}, {begin}")
        for reason, n in event["left_out"].items():
            say(self.console, "left out", f"    {n:,} images: {reason.replace('_', ' ')}", "yellow")
