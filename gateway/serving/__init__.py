"""The HTTP process: server, lifespan manager and `gateway check`."""
