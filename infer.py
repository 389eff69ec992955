"""Find CD8+ cells in slides: `python infer.py SLIDE_OR_FOLDER... --out DIR`, or `--demo`."""

from histo.cli import main

if __name__ == "__main__":
    main("infer")
