"""The places that the gateway knows: GeoNames' cities, how they are loaded and how they are found."""
