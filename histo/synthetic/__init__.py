"""Rendered slides with known truth: demo, training and tests."""
