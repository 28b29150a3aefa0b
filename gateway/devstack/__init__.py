"""Real private servers on this machine, for `make dev` and for the tests. Enter them with `gateway.devstack.stack`.

Linux only: what belongs to a server is found through /proc.
"""
