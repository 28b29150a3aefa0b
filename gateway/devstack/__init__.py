"""Private servers on this machine, for `make dev` and the tests. `gateway.devstack.stack` starts them.

Linux only: the processes of a server are found through /proc.
"""
