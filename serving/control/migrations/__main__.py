"""Brings one database to this release's tables, in one transaction. Prints what was wrong and exits with 1 where it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from serving.control.schema import HEAD

FIRST = "0001"
"""The tables before there were migrations."""


def migrate(file: Path) -> None:
    """Bring the database to HEAD. Raises CommandError where another, newer release wrote it; DatabaseError where SQLite does."""
    engine = create_engine(URL.create("sqlite", database=str(file)))
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            if not inspect(connection).has_table("alembic_version"):
                command.stamp(config, FIRST)
            command.upgrade(config, HEAD)
    finally:
        engine.dispose()


if __name__ == "__main__":
    try:
        migrate(Path(sys.argv[1]))
    except (CommandError, DatabaseError) as error:
        sys.exit(str(error))
