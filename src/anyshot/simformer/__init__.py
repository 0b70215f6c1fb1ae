"""SimFormer: weak-shot segmentation by dual similarity transfer (NeurIPS 2022, arXiv 2210.02270)."""
