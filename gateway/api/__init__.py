"""The HTTP interface: thin routes, and the one shape of every error (see `problems.py`)."""
