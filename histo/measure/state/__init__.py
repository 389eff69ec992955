"""The state of CD8+ cells: gates, rules, fractions and the words for them. Pure functions over arrays."""
