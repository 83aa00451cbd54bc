"""Alembic environment: runs on the connection that `fhir_ext.store.engine.migrate` gives."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from fhir_ext.store import tables  # noqa: F401  (registers the tables)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    version_table="fhir_ext_alembic",
)
with context.begin_transaction():
    context.run_migrations()
