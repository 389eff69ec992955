"""Whole-slide images: one contract, its backends, tissue, tiles and reading ahead."""

from histo.slide.base import Level, Slide, SlideInfo
from histo.slide.find import find_slides, slide_parts
from histo.slide.geometry import Box
from histo.slide.open import open_slide

__all__ = ["Box", "Level", "Slide", "SlideInfo", "find_slides", "open_slide", "slide_parts"]
