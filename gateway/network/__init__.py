"""Addresses, TLS files and errors of the system: the part of a connection that does not depend on the client library."""
