"""Serial sections: CD8 on one slide, another marker on the next, laid over each other."""
