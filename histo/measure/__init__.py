"""Densities, exclusion and the slide summary."""
