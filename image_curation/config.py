"""Settings: where the data is, which encoder, on what hardware; from arguments or IMAGE_CURATION_* variables."""

import ctypes
import os
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from image_curation.decode.limits import DecodeLimits
from image_curation.encoders.base import CpuDtype
from image_curation.errors import ConfigError

ENV_PREFIX = "IMAGE_CURATION_"
SetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _pairs(places: Any) -> Any:
    """An object as pairs: settings can be hashed."""
    return tuple(sorted(places.items())) if isinstance(places, dict) else places


KnownSets = Annotated[tuple[tuple[SetName, str], ...], BeforeValidator(_pairs)]


class DuplicateSearch(BaseModel):
    """How far down duplicates are searched. The policy may then choose any threshold above, without a new search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    similarity_margin: float = Field(0.05, ge=0, le=1, description="cosine below the encoder's recommended threshold")
    max_phash_distance: int = Field(8, ge=0, le=16, description="bits of 64")
    brute_force_rows: int | None = Field(
        None, ge=0, description="compare all with all up to here, by cells beyond; none: 250,000, 4 million on a GPU"
    )
    recall: float = Field(0.999, gt=0, le=1, description="share of a sample's duplicates that cells have to meet")


class Settings(BaseSettings):
    """All that a run needs to know besides the policy.

    Every field can be an environment variable, e.g. IMAGE_CURATION_ENCODER or IMAGE_CURATION_DECODE__MAX_PIXELS.
    Credentials are no settings: storage takes them from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    source: str = Field(description="folder or URL with tar shards, or one tar")
    root: str = Field(description="folder or URL where all artifacts, the release and the report go")
    policy: str | None = Field(None, description="policy YAML; none gives the defaults")
    encoder: str = Field("embedded", description="an encoder profile, open_clip:MODEL/WEIGHTS, timm:NAME or onnx:PATH")
    weights: str | None = Field(None, description="local file with the encoder's weights; none takes them from the hub")
    heads: str | None = Field(None, description="folder with the LAION score heads' files")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cpu_dtype: CpuDtype = Field(
        "fp32",
        description="arithmetic of a torch encoder on a CPU; bf16 takes half the time on one with AMX (Intel from "
        "Sapphire Rapids on), at a cosine of 0.9999",
    )
    cluster: str = Field(
        "auto",
        description="inline (no workers), local (on CPUs), cuda (on GPUs), a scheduler's address tcp://host:port, or "
        "auto: local or cuda, but inline for a single shard or 64 MiB",
    )
    partition_bytes: int | None = Field(
        None, ge=1, description="Dagster takes up tars in groups of so many bytes; none: each tar by itself"
    )
    workers: int | None = Field(None, ge=1, description="local workers; none: one a GPU, or up to four on CPUs")
    decode: DecodeLimits = DecodeLimits()
    duplicates: DuplicateSearch = DuplicateSearch()
    known_sets: KnownSets = Field(
        (),
        description="JSON object: name -> Parquet file or folder with vectors, or root or release of another curation; "
        "the policy says what becomes of images that match",
    )

    @field_validator("source", "root", "policy", "heads")
    @classmethod
    def _absolute(cls, place: str | None) -> str | None:
        """Local paths hold wherever a worker runs."""
        return place if place is None or "://" in place else os.path.abspath(os.path.expanduser(place))

    @field_validator("known_sets")
    @classmethod
    def _absolute_sets(cls, places: KnownSets) -> KnownSets:
        return tuple((name, cls._absolute(place) or place) for name, place in places)

    def local_workers(self) -> int:
        """Workers that embed on one machine: as many as are set, else one a GPU, or up to four on CPUs."""
        if self.workers:
            return self.workers
        return max(1, gpu_count()) if resolve_device(self.device) == "cuda" else min(os.cpu_count() or 1, 4)

    def threads_per_worker(self) -> int:
        """Threads that one worker decodes with: its share of the cores."""
        return max(1, (os.cpu_count() or 1) // self.local_workers())


def load_settings(**given: Any) -> Settings:
    """Settings from arguments (None: not given) and, for the rest, the environment.

    Raises:
        ConfigError: something needed is in neither, or a value is wrong.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        wrong = [f"  {ENV_PREFIX}{'__'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise ConfigError("settings are missing or wrong:\n" + "\n".join(wrong)) from error
    except SettingsError as error:  # a section given as one variable, and not as JSON
        raise ConfigError(
            f"settings are wrong: {error}. Give each of its fields as a variable, such as "
            f"{ENV_PREFIX}DECODE__MAX_PIXELS, or all of them as a JSON object."
        ) from error


def resolve_device(device: str) -> Literal["cpu", "cuda"]:
    """The device that "auto" stands for: a GPU where there is one."""
    if device == "auto":
        return "cuda" if gpu_count() else "cpu"
    return "cuda" if device == "cuda" else "cpu"


@lru_cache(maxsize=1)
def gpu_count() -> int:
    """How many GPUs the driver offers. Nobody else is asked: GPU packages import without one, torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
