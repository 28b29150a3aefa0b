"""The HTTP interface: thin routers, and the one shape of every error (see `problems.py`)."""
