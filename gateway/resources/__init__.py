"""What the gateway owns for the life of the process: one file a resource, all of one shape (see `resource.py`)."""
