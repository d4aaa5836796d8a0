"""The local store: finished spans in one SQLite file per project, or in a spool where SQLite cannot be used."""
