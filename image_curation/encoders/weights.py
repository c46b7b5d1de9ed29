"""Turns a request for weights (a local path, a checksum, or nothing: the hub) into a checked file on disk.

A request is one string, the encoder's setting `weights`:

    (nothing)                      the file that the profile names, from the Hugging Face hub or its local cache
    PATH                           a local .safetensors, .pt, .pth, .bin or .onnx file
    PATH@sha256:HEX                the same, refused unless it has this checksum
    @sha256:HEX                    the hub's file, refused unless it has this checksum
    random:SEED                    random weights, for tests and benchmarks only; no score head accepts their vectors

The two CLIP profiles are pinned by revision and checksum. What is not pinned is taken as it comes, and its checksum
goes into the birth certificate of whatever it makes.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from image_curation.errors import ConfigError, WeightsError


@dataclass(frozen=True)
class HubFile:
    """A file on the hub. `revision` is a commit, `sha256` its content; None where nothing is pinned."""

    repo: str
    names: tuple[str, ...]
    """Names under which it may lie there, best first."""
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class WeightsFile:
    """A file on this disk with its checksum; `pinned` says that somebody vouched for the checksum beforehand."""

    path: Path
    sha256: str
    pinned: bool


@dataclass(frozen=True)
class Request:
    """The parsed setting `weights`: at most one of `path` and `seed`."""

    path: str | None = None
    sha256: str | None = None
    seed: int | None = None


# By (open_clip's model, its tag): OpenAI's weights as safetensors, converted by the authors of timm and open_clip.
# Revisions and checksums are those that independent projects pin for these repositories.
PINNED = {
    ("ViT-L-14", "openai"): HubFile(
        "timm/vit_large_patch14_clip_224.openai",
        ("open_clip_model.safetensors",),
        "18d0535469bb561bf468d76c1d73aa35156c922b",
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
    ),
    ("ViT-B-32", "openai"): HubFile(
        "timm/vit_base_patch32_clip_224.openai",
        ("open_clip_model.safetensors",),
        "a6f597a30f7b82c51704746581f9a4e41421e878",
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
    ),
}


def parse_request(weights: str | None) -> Request:
    """Read the setting `weights`.

    Raises:
        ConfigError: the seed is no number or the checksum no SHA-256.
    """
    text = (weights or "").strip()
    if text.startswith("random:"):
        seed = text.removeprefix("random:")
        if not seed.isdecimal():
            raise ConfigError(f"weights {text!r}: after 'random:' comes a seed, a whole number, not {seed!r}.")
        return Request(seed=int(seed))
    path, at, pin = text.partition("@sha256:")
    if at and not re.fullmatch(r"[0-9a-fA-F]{64}", pin):
        raise ConfigError(f"weights {text!r}: after '@sha256:' come 64 hexadecimal digits, not {len(pin)} characters.")
    return Request(path=path or None, sha256=pin.lower() or None)


def fetch(request: Request, source: HubFile, name: str, known: frozenset[str] = frozenset()) -> WeightsFile:
    """The requested file: the local path, or else `source` from the hub, downloaded with a progress bar if not cached.

    Args:
        request: what the user asked for; not random weights.
        source: where the file lies on the hub.
        name: the encoder, for error texts.
        known: checksums of the same weights in other containers, which a local file may have.

    Raises:
        WeightsError: no such file, no network, or another checksum than the pinned one.
    """
    if request.path:
        return local_file(request, name, known | ({source.sha256} if source.sha256 else set()))
    path = _download(source, name)
    return _checked(path, request.sha256 or source.sha256, name)


def local_file(request: Request, name: str, known: frozenset[str] = frozenset()) -> WeightsFile:
    """The file at the request's path, checked against the request's checksum if it has one.

    Raises:
        WeightsError: there is no such file, or it has another checksum.
    """
    path = Path(request.path or "").expanduser()
    if not path.is_file():
        raise WeightsError(f"encoder {name}: there is no weights file at {path}. Correct the setting `weights`.")
    file = _checked(path, request.sha256, name)
    return WeightsFile(path, file.sha256, file.pinned or file.sha256 in known)


def cached_file(source: HubFile) -> Path | None:
    """Where the hub's local cache holds this file, or None. Touches no network and reads no content."""
    for filename in source.names:
        found = huggingface_hub.try_to_load_from_cache(source.repo, filename, revision=source.revision)
        if isinstance(found, str):
            return Path(found)
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, about a second for each gigabyte."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(path: Path, expected: str | None, name: str) -> WeightsFile:
    actual = sha256_of(path)
    if expected and actual != expected:
        raise WeightsError(
            f"encoder {name}: {path} has SHA-256 {actual}, but {expected} is pinned. "
            "Remove the file and fetch it again, or correct the checksum in the setting `weights`."
        )
    return WeightsFile(path, actual, expected is not None)


def _download(source: HubFile, name: str) -> Path:
    for filename in source.names:
        try:
            return Path(huggingface_hub.hf_hub_download(source.repo, filename, revision=source.revision))
        except LocalEntryNotFoundError as error:  # neither in the cache nor within reach
            raise _unreachable(source, name, error) from error
        except EntryNotFoundError:  # reached, and not under this name
            continue
        except (HfHubHTTPError, OSError) as error:
            raise _unreachable(source, name, error) from error
    raise WeightsError(
        f"encoder {name}: the hub's repository {source.repo} holds none of {', '.join(source.names)}. "
        "Give the path of a weights file in the setting `weights`."
    )


def _unreachable(source: HubFile, name: str, error: Exception) -> WeightsError:
    filename = source.names[0]
    url = huggingface_hub.hf_hub_url(source.repo, filename, revision=source.revision)
    return WeightsError(
        f"encoder {name}: its weights could not be fetched from {url}, and the local cache "
        f"{huggingface_hub.constants.HF_HUB_CACHE} does not hold them ({type(error).__name__}: {_first_line(error)}). "
        f"Without a network: fetch {filename} on another machine, copy it here, and give its path in the setting "
        "`weights`; or copy that machine's cache and name its folder in HF_HUB_CACHE; "
        "or use the encoder 'embedded', which needs no weights."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0]
