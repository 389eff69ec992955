"""What lands on disk: tables, GeoJSON, OME-Zarr maps, pictures and the slide report."""
