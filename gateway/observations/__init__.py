"""Observations: reported by people, stored with an event, published, and counted."""
