"""Turns the registration of a head into its file on disk: downloads it, and keeps it only if it is the pinned one."""

import hashlib
import http.client
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from image_curation import storage
from image_curation.errors import WeightsError
from image_curation.heads.files import HeadFile

CHUNK_BYTES = 1 << 16


def fetch_file(file: HeadFile, folder: Path, url: str | None = None) -> Path:
    """Download a head into `folder` with a progress bar; a file that is there already and right is kept.

    Args:
        url: a mirror to take it from instead of the project's repository; the checksum is the same.

    Raises:
        WeightsError: the place cannot be reached, or what it serves is not the pinned file; nothing is written then.
    """
    target = folder / file.file
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == file.sha256:
        return target
    source = url or file.url
    try:
        data = _download(source, file)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise WeightsError(
            f"Cannot fetch {file.file} from {source}: {error}. Without a network, copy the file to {folder} by hand."
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise WeightsError(f"{source} serves another file: its sha256 is {digest}, expected {file.sha256}.")
    storage.write_bytes(str(target), data)
    return target


def _download(url: str, file: HeadFile) -> bytes:
    """At most one byte more than the pinned size: enough to see that it is another file."""
    data = bytearray()
    with (
        urllib.request.urlopen(url, timeout=30) as response,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task(file.file, total=file.size_bytes)
        while len(data) <= file.size_bytes:
            chunk = response.read(min(CHUNK_BYTES, file.size_bytes + 1 - len(data)))
            if not chunk:
                break
            data += chunk
            progress.update(task, completed=len(data))
    return bytes(data)
