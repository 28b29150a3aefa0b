"""The parts of any of the processes that FastAPI does not know: signals, exit status, watchdog, listener."""
