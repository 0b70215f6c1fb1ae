"""LarvSeg: large-vocabulary segmentation from image-classification data (PRCV 2024, arXiv 2501.06862)."""
