"""An encoder and its setting `weights` -> what identifies the weights, without loading a model."""

from functools import lru_cache
from pathlib import Path

from image_curation.encoders.base import Profile
from image_curation.encoders.weights import PINNED, parse_request, sha256_of


def weights_identity(profile: Profile, weights: str | None) -> str | None:
    """The SHA-256 of the weights, or `random:SEED`; None where only a loaded encoder can tell (an unpinned hub file).

    Raises:
        ConfigError: `weights` cannot be understood.
    """
    request = parse_request(weights)
    if request.seed is not None:
        return f"random:{request.seed}"
    if profile.kind == "embedded":
        from image_curation.encoders.embedded import EmbeddedEncoder

        return EmbeddedEncoder(profile).weights_sha256
    if profile.kind == "onnx":
        return _onnx_identity(request.path or profile.model, request.sha256)
    if request.path:
        return request.sha256 or _sha256_of_file(request.path)
    pinned = PINNED.get((profile.model.removesuffix("-quickgelu"), profile.pretrained or ""))
    return request.sha256 or (pinned.sha256 if pinned else None)


def _onnx_identity(path: str, pinned: str | None) -> str | None:
    """The model, and the file beside it that says how its input is scaled."""
    options = _sha256_of_file(f"{path}.yaml")
    model = pinned or _sha256_of_file(path)
    return f"{model}+{options}" if model and options else model


def _sha256_of_file(path: str) -> str | None:
    file = Path(path).expanduser()
    if not file.is_file():
        return None  # loading the encoder says what is wrong
    status = file.stat()
    return _hashed(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _hashed(file: Path, size: int, mtime_ns: int) -> str:
    """Hash a file once, as long as it does not change: a gigabyte takes about a second."""
    return sha256_of(file)
