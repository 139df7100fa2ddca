"""What Alembic runs to migrate: on the connection, and in the transaction, that `migrate` has opened."""

from __future__ import annotations

from alembic import context

from serving.control.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
