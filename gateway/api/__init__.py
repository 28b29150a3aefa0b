"""The HTTP interface: thin routes, and one shape for all errors (see `problems.py`)."""
