"""The network, decoding its maps to cells, shipped weights and the cell table."""
