"""One lifespan, five resources, one aggregated answer."""
