"""The names of the stains, apart from the arithmetic: tables and their readers need no torch."""

STAINS = ("nuclear", "cd8", "residual")
