"""Studies over many slides: the manifest that says whose slide is which."""
