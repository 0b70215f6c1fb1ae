"""RAML: open-world segmentation by region-aware metric learning on meta channels (IJCAI 2022)."""
