"""One process, without HTTP: runner, signals, exit status, watchdog and listener."""
