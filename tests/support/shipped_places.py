"""The table of places that the package ships, read once."""

from gateway.places.seed import SHIPPED_TABLE, read

SHIPPED = list(read(SHIPPED_TABLE))
