"""Comparisons of sites over patients: pure functions over arrays and frames."""
