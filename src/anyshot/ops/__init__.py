"""Functions of tensors and arrays that know no file: walks, CRF, regions, metrics, losses."""
