"""The HTTP process: uvicorn with the parts that it lacks, the lifespan manager, and `gateway check`."""
