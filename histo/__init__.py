"""Histo: CD8+ T cells in whole-slide images of liver metastases and primary tumours."""

__version__ = "0.1.0"
