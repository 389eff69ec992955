"""Review: a pathologist looks at the results on the slide, corrects them, and signs."""
