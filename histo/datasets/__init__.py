"""Adapters to public datasets, in their published layout."""
