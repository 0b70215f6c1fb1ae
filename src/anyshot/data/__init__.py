"""Data sets: class tables, manifests, images and masks, readers of the usual layouts, splits, scenes."""
