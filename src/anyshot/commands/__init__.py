"""The subcommands of `anyshot`: one module each, with `add_parser(commands)` and `run(arguments)`.

The modules named here are imported for `anyshot --help`, so none of them imports torch at its top.
"""

from __future__ import annotations

from typing import Final

NETWORKS: Final = {"retab_segmentation": "anyshot.retab.networks:build_segmentation"}
"""Builders of final segmenters, "module:function", by the network's name in `model.json`."""

SEGMENTERS: Final = {
    "larvseg": "anyshot.larvseg.segmenter:load_segmenter",
    "larvseg_imagenet_head": "anyshot.larvseg.segmenter:load_segmenter",
    "pop_segmenter": "anyshot.pop.segmenter:load_segmenter",
    "raml_metric": "anyshot.raml.segmenter:load_segmenter",
    "raml_open": "anyshot.raml.segmenter:load_segmenter",
    "simformer": "anyshot.simformer.segmenter:load_segmenter",
}
"""Loaders of segmenters that are more than a network with one channel per class, by the network's name."""

PLAIN: Final = {
    "larvseg": "anyshot.larvseg.segmenter:load_plain",
    "larvseg_imagenet_head": "anyshot.larvseg.segmenter:load_plain",
    "simformer": "anyshot.simformer.segmenter:load_plain",
}
"""Loaders of those of `SEGMENTERS` that can be had as a network with one channel per class, too."""
