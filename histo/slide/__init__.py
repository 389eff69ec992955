"""Whole-slide images: one contract, its backends, tissue, tiles and reading ahead."""
