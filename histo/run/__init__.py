"""One slide (pipeline), many slides (batch, resume) and the demo."""
