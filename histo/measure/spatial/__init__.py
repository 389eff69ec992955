"""Spatial statistics: pure functions over points and a window of real tissue, edge-corrected."""
