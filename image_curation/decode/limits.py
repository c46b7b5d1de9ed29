"""The bounds that turn a hostile image into a refused row before anything of it is decoded, and how far to look."""

from pydantic import BaseModel, ConfigDict, Field


class DecodeLimits(BaseModel):
    """What an image may be at most. Checked on its header alone, so that a decompression bomb costs nothing.

    A CPU sees damage inside a JPEG while it decodes. A GPU does not: its host has to read every JPEG once more to find
    it, a millisecond for each 100 kB. That took a sixth of the speed of ViT-L/14 on an H200, so it is left to you.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(default=100_000_000, gt=0, description="width x height as stored")
    max_bytes: int = Field(default=100_000_000, gt=0, description="size of the image member in the tar")
    max_aspect_ratio: float = Field(default=100.0, ge=1.0, description="long side over short side")
    find_damage: bool = Field(default=False, description="on a GPU: have the host look for damage inside JPEGs")
