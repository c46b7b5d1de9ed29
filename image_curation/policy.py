"""The policy: one YAML file of thresholds and rules that decide, late, what is kept. Changing it runs no model."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from image_curation import storage
from image_curation.artifacts import digest
from image_curation.errors import ConfigError
from image_curation.known.hash_lists import HashList, read_hash_list

Null = Literal["keep", "drop"]
Rank = Literal["aesthetic", "resolution", "bytes", "caption", "sharpness", "first"]
Grouping = Literal["components", "star", "ranked"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImageRules(_Section):
    """Rules on what the pixels are, known for every encoder. A rule that is null does not apply."""

    min_short_side: int | None = Field(64, ge=1, description="pixels of the shorter side, as shown")
    max_aspect_ratio: float | None = Field(4.0, ge=1, description="longer side over shorter side")
    min_sharpness: float | None = Field(None, ge=0, description="variance of the Laplacian of the 224 px view")
    min_exposure: Fraction | None = Field(0.02, description="mean luminance, 0 black to 1 white")
    max_exposure: Fraction | None = Field(0.98, description="mean luminance, 0 black to 1 white")
    min_contrast: Fraction | None = Field(0.01, description="standard deviation of luminance, 0 for a flat image")
    damaged: Null = Field("drop", description="JPEGs that a strict decoder rejects and a lenient one shows with holes")


class CaptionRules(_Section):
    """Rules on the caption."""

    required: bool = Field(False, description="drop samples that have no caption")
    min_characters: int = Field(0, ge=0, description="drop captions that are shorter")
    max_characters: int | None = Field(None, ge=1, description="drop captions that are longer")


class AestheticRule(_Section):
    """A floor for the LAION aesthetic score (about 1 to 10)."""

    min: float | None = 4.5
    when_null: Null = Field("keep", description="what to do where there is no score, as under `embedded`")


class NsfwRule(_Section):
    """A ceiling for the LAION NSFW score (0 safe to 1 unsafe)."""

    max: Fraction | None = 0.5
    when_null: Null = Field("keep", description="what to do where there is no score, as under `embedded`")


class DuplicateRules(_Section):
    """What counts as a duplicate, and which of a group stays."""

    exact: bool = Field(True, description="equal bytes")
    max_phash_distance: int | None = Field(4, ge=0, le=16, description="bits of 64 that may differ; null: not used")
    min_similarity: Fraction | Literal["auto"] | None = Field(
        "auto", description="cosine; auto: what the encoder's profile recommends; null: not used"
    )
    survivor: tuple[Rank, ...] = Field(
        ("aesthetic", "resolution", "bytes", "first"), min_length=1, description="best first; ties end at the hash"
    )
    groups: Grouping = Field(
        "components",
        description="who goes; components: all but one; star: all like one that stays; ranked: all like a better one",
    )
    min_keeper_similarity: Fraction | None = Field(
        None, description="cosine to the one that stays, below which components are split; null: they are not"
    )
    warn_below: Fraction | Literal["auto"] | None = Field(
        "auto", description="cosine to the one that stays; auto: 0.05 below min_similarity; null: no warning"
    )


class KnownRules(_Section):
    """Images that are known already. What is blocked, contaminated or in a reference set is dropped and counted so."""

    blocklists: tuple[str, ...] = Field(
        (),
        description="files with a SHA-256 or perceptual hash a line, or Parquet; relative paths start at this file",
    )
    evaluation: tuple[str, ...] = Field(
        (), description="names of known sets (IMAGE_CURATION_KNOWN_SETS) that must not get into training"
    )
    reference: tuple[str, ...] = Field((), description="names of known sets whose images are there already")
    max_phash_distance: int | None = Field(4, ge=0, le=16, description="bits of 64 that may differ; null: not used")
    min_similarity: Fraction | Literal["auto"] | None = Field(
        "auto", description="cosine; auto: as among duplicates; null: not used"
    )


class ReleaseRules(_Section):
    """The shape of the release."""

    samples_per_shard: int = Field(1_000, ge=1, description="at most, in a tar")
    max_shard_megabytes: int = Field(1_000, ge=1, description="at most, of a tar (1 MB = 10^6 bytes)")
    vectors: bool = Field(False, description="put the vectors into the Parquet beside each tar")


class Policy(_Section):
    """Everything that decides what is kept, and how the release is cut."""

    image: ImageRules = ImageRules()
    caption: CaptionRules = CaptionRules()
    aesthetic: AestheticRule = AestheticRule()
    nsfw: NsfwRule = NsfwRule()
    duplicates: DuplicateRules = DuplicateRules()
    known: KnownRules = KnownRules()
    release: ReleaseRules = ReleaseRules()

    def fingerprint(self) -> str:
        """Equal for policies that decide alike: a list counts by what is in it."""
        return digest(self.model_dump(mode="json") | {"blocklists": self.blocklist_contents()})

    def blocklists(self) -> list[HashList]:
        """The lists that the policy names, as they are now.

        Raises:
            ConfigError: one is gone, or something in it is no hash.
        """
        return [read_hash_list(url) for url in self.known.blocklists]

    def blocklist_contents(self) -> list[str]:
        """What changes when a list does; errors as for `blocklists`."""
        return [one.content for one in self.blocklists()]


def load_policy(url: str | Path | None) -> Policy:
    """Read a policy file; None gives the defaults, an absent key its default.

    Raises:
        ConfigError: the file is absent or no YAML, or a key or value is wrong; the text names each and what is allowed.
            Or a blocklist that it names is wrong.
    """
    if url is None:
        return Policy()
    url = str(url)
    if not storage.exists(url):
        raise ConfigError(f"there is no policy file {url}. `image-curation policy` prints one to start from.")
    try:
        values = yaml.safe_load(storage.read_bytes(url)) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"policy file {url} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"policy file {url} should hold keys such as `duplicates:`, but it is a {type(values).__name__}."
        )
    try:
        policy = _beside(url, Policy.model_validate(values))
    except ValidationError as error:
        raise ConfigError(f"policy file {url}:\n" + "\n".join(_sentences(error))) from error
    policy.blocklists()
    return policy


def _beside(url: str, policy: Policy) -> Policy:
    """The policy with the places of its lists made whole: relative ones start at the policy's own folder."""
    folder = url.rpartition("/")[0] if "://" in url else os.path.dirname(os.path.abspath(url))
    places = tuple(
        place if "://" in place or os.path.isabs(place) else storage.join(folder, place.removeprefix("./"))
        for place in policy.known.blocklists
    )
    return policy.model_copy(update={"known": policy.known.model_copy(update={"blocklists": places})})


def policy_yaml(policy: Policy | None = None) -> str:
    """A policy as commented YAML, each key with its meaning."""
    policy = policy or Policy()
    lines = ["# What is kept. Changing this file runs no model: only `selection` and what follows it are made again."]
    for name in type(policy).model_fields:
        section = getattr(policy, name)
        lines += ["", f"# {(type(section).__doc__ or '').splitlines()[0]}", f"{name}:"]
        for key, info in type(section).model_fields.items():
            value = _in_a_line(section.model_dump(mode="json")[key])
            lines.append(f"  {key}: {value}" + (f"  # {info.description}" if info.description else ""))
    return "\n".join(lines) + "\n"


def _in_a_line(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize).split("\n")[0]


def _sentences(error: ValidationError) -> list[str]:
    return [_sentence(item["loc"], item["type"], item["msg"], item.get("input")) for item in error.errors()]


def _sentence(location: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    path = ".".join(str(part) for part in location if part not in ("constrained-float", "literal['auto']"))
    if kind == "extra_forbidden":
        return f"  {path}: there is no such key. Allowed here: {', '.join(_keys(location[:-1]))}."
    if kind == "model_type":
        return f"  {path}: it should hold some of {', '.join(_keys(location))}; it is {value!r}."
    return f"  {path}: {message}; it is {value!r}."


def _keys(section: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Policy
    for part in section:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        model = annotation
    return list(model.model_fields)
