"""Train the network: `python train.py --config configs/train_synthetic.yaml --out DIR`."""

from histo.cli import main

if __name__ == "__main__":
    main("train")
