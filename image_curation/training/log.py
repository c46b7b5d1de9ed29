"""Events of a training -> a file of JSON lines, of which a run that goes on keeps what it has not to do again."""

import json
import time
from typing import Any

from image_curation import storage

LOG = "log.jsonl"
_EVERY_S = 5.0


class TrainLog:
    """Writes events, one JSON object a line, at most every few seconds and when it is closed.

    Args:
        folder: where the file `log.jsonl` goes, on disk or in an object store.
        step: events of later steps, which a run wrote before it was killed, are dropped.
    """

    def __init__(self, folder: str, step: int) -> None:
        self._url = storage.join(folder, LOG)
        old = storage.read_bytes(self._url).splitlines() if step and storage.exists(self._url) else []
        self._lines = [line.decode() for line in old if json.loads(line).get("step", 0) <= step]
        self._written = 0.0

    def add(self, event: dict[str, Any]) -> None:
        """Note an event."""
        self._lines.append(json.dumps(event))
        if time.monotonic() - self._written > _EVERY_S:
            self.close()

    def close(self) -> None:
        """Write what is noted."""
        storage.write_bytes(self._url, "".join(f"{line}\n" for line in self._lines).encode())
        self._written = time.monotonic()
