"""How fast the gateway is beside others that do the same work, on the same servers, in the same run.

`python -m benchmarks --help` says what can be set; `make bench` writes docs/benchmarks.md.
"""
