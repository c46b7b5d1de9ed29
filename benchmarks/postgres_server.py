"""A PostgreSQL server on loopback with an empty database for Dagster, which ends with the program."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARIES = ("initdb", "pg_ctl")


def missing() -> str | None:
    """Why no server can be started here; None where one can."""
    absent = [name for name in BINARIES if shutil.which(name) is None]
    if absent:
        return f"there is no {' and no '.join(absent)} here: install PostgreSQL"
    if os.getuid() == 0 and "postgres" not in (user.pw_name for user in pwd.getpwall()):
        return "PostgreSQL refuses to run as root, and there is no user postgres to run it as"
    return None


@contextmanager
def postgres() -> Iterator[dict[str, Any]]:
    """Start a server; gives the `storage` section of a dagster.yaml for it.

    Raises:
        SystemExit: there is no PostgreSQL here.
    """
    if reason := missing():
        raise SystemExit(reason)
    user = "postgres" if os.getuid() == 0 else None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if user:
            shutil.chown(folder, user)
        data, log = str(folder / "data"), str(folder / "log")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        _run(user, "initdb", "-D", data, "-U", "dagster", "--auth=trust", "--no-sync")
        _run(user, "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            where = {"hostname": "127.0.0.1", "port": port, "username": "dagster", "db_name": "postgres"}
            yield {"postgres": {"postgres_db": where | {"password": ""}}}
        finally:
            _run(user, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _run(user: str | None, *command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")
