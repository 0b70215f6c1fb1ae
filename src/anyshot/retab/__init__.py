"""RETAB: weak-shot semantic segmentation by transferring affinities and boundaries (BMVC 2022)."""
