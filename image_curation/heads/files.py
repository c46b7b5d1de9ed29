"""Turns the registration of a head into its bytes: finds the file and proves that it is the pinned one."""

import hashlib
import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from image_curation.errors import NoHead, WeightsError

FOLDER_VARIABLE = "IMAGE_CURATION_HEADS"


@dataclass(frozen=True)
class HeadFile:
    """A published weights file: what the head is called, and where on GitHub the file lies, pinned."""

    name: str
    file: str
    sha256: str
    size_bytes: int
    repository: str
    commit: str
    licence: str

    @property
    def url(self) -> str:
        """Where the pinned file is served."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{urllib.parse.quote(self.file)}"


def cache_folder() -> Path:
    """Where fetched heads are kept."""
    return Path(os.path.expanduser("~/.cache/image-curation/heads"))


def read_head_file(files: Sequence[HeadFile], path: str | None, what: str) -> tuple[HeadFile, bytes]:
    """Find one of the registered files and prove that it is one.

    Args:
        files: what is accepted; the first is looked for where a folder is searched.
        path: a file, or a folder that is searched first, then $IMAGE_CURATION_HEADS, then the cache folder.
        what: what messages call the head.

    Raises:
        NoHead: the file lies in none of the folders.
        WeightsError: `path` does not exist, the file cannot be read, or it is not a registered one.
    """
    found = _find(files[0], path, what)
    try:
        data = found.read_bytes()
    except OSError as error:
        raise WeightsError(f"Cannot read the {what}, {found}: {error}. Check the file's permissions.") from error
    digest = hashlib.sha256(data).hexdigest()
    for file in files:
        if digest == file.sha256:
            return file, data
    expected = " or ".join(f"{file.sha256} ({file.file})" for file in files)
    raise WeightsError(
        f"{found} is not the {what}: its sha256 is {digest}, expected {expected}. "
        f"Remove it and fetch {files[0].file} from {files[0].url}."
    )


def _find(file: HeadFile, path: str | None, what: str) -> Path:
    given = Path(path).expanduser() if path else None
    if given and given.is_file():
        return given
    if given and not given.is_dir():
        raise WeightsError(f"The {what} should be at {given}, but there is no such file or folder. Correct the path.")
    variable = os.environ.get(FOLDER_VARIABLE)
    folders = [given, Path(variable).expanduser() if variable else None, cache_folder()]
    searched = [folder for folder in folders if folder]
    for folder in searched:
        if (folder / file.file).is_file():
            return folder / file.file
    raise NoHead(
        f"The {what} is not here: {file.file} is in none of {', '.join(map(str, searched))}. `image-curation "
        f"fetch ENCODER` downloads it; or put it there from {file.url}, or let {FOLDER_VARIABLE} name its folder."
    )
