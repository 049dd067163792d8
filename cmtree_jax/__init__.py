"""Learn how to divide a corpus and how much of each part to train on."""

__version__ = "0.1.0"
