"""The tables in PostgreSQL, the migrations that make them, and how far a database has come (see `revision.py`)."""
