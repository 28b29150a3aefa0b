"""Apps with lifespans as one finds them, one mistake each: `naive` has it, `cured` does not."""
