"""The record: the text of the files beside each revision, events in a chain, and what each webhook has had."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("revisions", sa.Column("files", sa.Text, nullable=False, server_default="[]"))
    op.create_table(
        "events",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("previous", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
    )
    op.create_index("events_by_model", "events", ["model", "number"])
    op.create_table(
        "deliveries",
        sa.Column("url", sa.String, primary_key=True),
        sa.Column("event", sa.Integer, nullable=False),
    )
