"""Places: GeoNames' cities, how they are loaded and searched."""
