"""Migrations of the state database, with Alembic: `python -m serving.control.migrations FILE` brings a database to this release.

The engine runs that in a process of its own, and only for a database of another release: to import Alembic takes half a second, and
almost no start needs it. A new database is made from `schema.py` at once; a test holds the two together.
"""
