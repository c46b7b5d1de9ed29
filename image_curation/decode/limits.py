"""The bounds that turn a hostile image into a refused row before anything of it is decoded."""

from pydantic import BaseModel, ConfigDict, Field


class DecodeLimits(BaseModel):
    """What an image may be at most. Checked on its header alone, so that a decompression bomb costs nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(default=100_000_000, gt=0, description="width x height as stored")
    max_bytes: int = Field(default=100_000_000, gt=0, description="size of the image member in the tar")
    max_aspect_ratio: float = Field(default=100.0, ge=1.0, description="long side over short side")
