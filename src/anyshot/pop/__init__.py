"""POP: generalised few-shot segmentation with orthogonal prototypes (CVPR 2023)."""
