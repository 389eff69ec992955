"""Scanner pixels to stain space: nuclear, CD8 and residual."""
