"""anyshot: semantic segmentation when most classes have no pixel labels."""

__version__ = "0.1.0"
