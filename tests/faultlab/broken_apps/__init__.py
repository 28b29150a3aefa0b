"""Apps with one common mistake each in their lifespan: `broken` has it, `fixed` does not."""
