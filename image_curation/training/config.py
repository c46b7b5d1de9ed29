"""What decides a training: the model, how its images are seen, how long and how fast it learns."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Equal configuration, data and number of processes give equal weights on a CPU. No path is part of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("resnet50", description="any name of timm, such as resnet50 or efficientnet_b0")
    weights: str | None = Field(None, description="safetensors or checkpoint to begin with; none: random")
    image_size: int = Field(224, ge=8, description="side of the square in pixels")
    augmentation: Literal["none", "auto", "trivial"] = Field("none", description="beyond crop and mirror")
    label_field: str = Field("cls", description="of tars: cls, or a field of the JSON sidecar")
    val_fraction: float = Field(0.0, ge=0, lt=1, description="share held out, where no place for validation is given")
    check: Literal["decode", "none"] = Field("decode", description="decode all images once and leave out what fails")
    epochs: int = Field(90, ge=1)
    steps: int = Field(0, ge=0, description="stop after so many, whatever `epochs` says; 0: after all epochs")
    batch_size: int = Field(256, ge=1, description="of each process")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0, description="at its highest, for 256 images a step; scaled with the size of a step")
    weight_decay: float = Field(5e-5, ge=0, description="not of biases and norms")
    warmup_epochs: float = Field(5.0, ge=0, description="in which the rate rises; then it falls as a cosine does")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights; 0: none are kept")
    amp: Literal["bf16", "none"] = "bf16"
    compile: bool = Field(False, description="torch.compile")
    loader: Literal["dali", "proxy", "synthetic"] = "dali"
    decoder: Literal["auto", "cpu", "mixed"] = Field("auto", description="where JPEGs are decoded; auto: on the GPU")
    threads: int = Field(0, ge=0, description="for decoding, of each process; 0: its share of the cores")
    buffer: int = Field(2048, ge=1, description="samples among which the reader of tars picks the next one")
    checkpoint_steps: int = Field(500, ge=0, description="steps between checkpoints; 0: one an epoch")
    log_steps: int = Field(50, ge=1)
    seed: int = Field(0, ge=0)

    def total_steps(self, epoch_steps: int) -> int:
        """Steps of the whole training, where an epoch has `epoch_steps`."""
        return self.steps or self.epochs * epoch_steps
