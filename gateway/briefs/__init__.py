"""The brief: one answer about a place, of sections that are asked for at once and may be missing."""
