"""Benchmarks of the gateway and of other implementations of the same work, on the same servers, in one run.

The gateway does not import this package: a reader of the gateway can skip it. README.md lists the modules.
"""
