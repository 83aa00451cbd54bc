"""Segments of any producer under names of ours. No service: it has no manifest."""
