"""The tables in PostgreSQL, their migrations, and the revision of a database."""
