"""The brief: one response about a place, joined from several backends. Sections that are unavailable are marked as such."""
