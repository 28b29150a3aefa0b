"""The resources: one file for each, all of one shape (see `base.py`)."""
