"""The tables of the state database, and the number of the migration that leads to them (`migrations/`)."""

from __future__ import annotations

from sqlalchemy import Column as C
from sqlalchemy import Float, Index, Integer, MetaData, String, Table, Text

HEAD = "0004"
"""A database with this in `alembic_version` has exactly these tables."""

metadata = MetaData()
revisions = Table(
    "revisions",
    metadata,
    C("number", Integer, primary_key=True, autoincrement=True),
    C("target", Text, nullable=False),
    C("author", String, nullable=False),
    C("reason", String, nullable=False),
    C("at", Float, nullable=False),
    C("files", Text, nullable=False, server_default="[]"),
    sqlite_autoincrement=True,
)
counters = Table("counters", metadata, C("name", String, primary_key=True), C("value", Integer, nullable=False))
events = Table(
    "events",
    metadata,
    C("number", Integer, primary_key=True),
    C("at", Float, nullable=False),
    C("kind", String, nullable=False),
    C("model", String, nullable=False),
    C("body", Text, nullable=False),
    C("previous", String, nullable=False),
    C("hash", String, nullable=False),
    Index("events_by_model", "model", "number"),
)
deliveries = Table("deliveries", metadata, C("url", String, primary_key=True), C("event", Integer, nullable=False))
access_keys = Table(
    "access_keys",
    metadata,
    C("id", String, primary_key=True),
    C("name", String, nullable=False),
    C("body", Text, nullable=False),
    C("revoked", Float, nullable=False),
)
approvals = Table(
    "approvals",
    metadata,
    C("number", Integer, primary_key=True, autoincrement=True),
    C("state", String, nullable=False),
    C("body", Text, nullable=False),
    sqlite_autoincrement=True,
)
version = Table("alembic_version", metadata, C("version_num", String(32), primary_key=True))
