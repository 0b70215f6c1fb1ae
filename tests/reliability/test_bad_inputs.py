"""Every kind of bad input that the systems were designed for, and the test that shows what becomes of it.

Most tests lie with the code that they test; this table keeps any of them from getting lost. Those that had no
other place are below it. All of them as one suite:

    python -m pytest $(python -m tests.reliability.test_bad_inputs)
"""

from __future__ import annotations

import ast
import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from anyshot.errors import ArtifactError
from anyshot.raml.bank import describe_support
from anyshot.raml.networks import build_metric_net
from tests.raml.open_models import network_options, open_tables

TESTS = Path(__file__).resolve().parents[1]

# system: {what is wrong: tests that show an error that explains it, or the documented behaviour}
SHOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "all": {
        "an unknown or misspelled configuration key": (
            "workflow/test_config.py::test_a_mistake_is_named_with_its_key_the_value_and_what_is_allowed",
        ),
        "a value of a wrong type": (
            "workflow/test_config.py::test_a_mistake_is_named_with_its_key_the_value_and_what_is_allowed",
            "reliability/test_fuzz_config.py::test_changed_keys_and_values",
        ),
        "a novel class that is not in the class table": (
            "end_to_end/test_whole_run.py::test_novel_class_that_is_not_in_the_table",
            "data/test_classes.py::test_unknown_names_come_with_close_matches",
        ),
        "a split that does not exist": (
            "workflow/test_config.py::test_targets_of_other_splits_are_errors",
            "data/test_splits.py::test_unknown_scheme_and_split_are_named",
        ),
        "a data root that is missing": ("data/test_bad_input.py::test_missing_root_is_named",),
        "a mask of another size than its image": ("data/test_bad_input.py::test_mask_of_another_size",),
        "a truncated JPEG": ("data/test_bad_input.py::test_truncated_jpeg",),
        "a grayscale JPEG": (
            "data/test_bad_input.py::test_gray_cmyk_and_sixteen_bit_images_are_fine",
            "data/test_images.py::test_grayscale_jpeg_becomes_three_equal_channels",
        ),
        "a CMYK JPEG": (
            "data/test_bad_input.py::test_gray_cmyk_and_sixteen_bit_images_are_fine",
            "data/test_images.py::test_cmyk_jpeg_is_converted",
        ),
        "a 16-bit PNG": (
            "data/test_bad_input.py::test_gray_cmyk_and_sixteen_bit_images_are_fine",
            "data/test_images.py::test_sixteen_bit_png_loses_its_low_byte",
        ),
        "a palette mask read through colour": (
            "data/test_bad_input.py::test_rgb_mask",
            "data/test_bad_input.py::test_palette_turned_to_gray_values_is_caught_by_the_class_table",
            "data/test_images.py::test_masks_saved_through_colour_are_refused",
        ),
        "label values outside the table": (
            "data/test_bad_input.py::test_ids_outside_the_table_are_listed_with_their_pixels",
        ),
        "an image with no labels": (
            "data/test_bad_input.py::test_image_without_labels",
            "retab/test_propagation.py::test_image_without_labels",
            "ops/test_crf.py::test_image_without_labels",
        ),
        "an empty subset": (
            "data/test_bad_input.py::test_empty_subset",
            "end_to_end/test_whole_run.py::test_subset_that_does_not_exist",
        ),
        "a checkpoint of another split": ("end_to_end/test_whole_run.py::test_checkpoint_of_another_split",),
        "a checkpoint of other classes": ("end_to_end/test_whole_run.py::test_checkpoint_of_other_classes",),
        "a weights file of the wrong network": (
            "end_to_end/test_whole_run.py::test_checkpoint_of_another_network",
            "nets/test_retab_weights.py::test_another_networks_file_is_refused",
        ),
        "a disk that is full while a store is written": (
            "engine/test_stores.py::test_full_disk",
            "engine/test_stores.py::test_disk_that_fills_up_at_the_end",
        ),
        "a store cut in half": ("engine/test_stores.py::test_cut_file_is_never_read_as_good",),
    },
    "raml": {
        "a support mask without one pixel of its class": (
            "raml/test_inference.py::test_an_empty_support_mask_is_an_error",
            "cli/test_novel.py::test_what_stops_add",
        ),
        "a support mask that the quarter grid misses": (
            "raml/test_inference.py::test_a_thin_mask_takes_the_cells_it_touches",
        ),
        "a novel class that is also known": (
            "cli/test_novel.py::test_what_stops_add",
            "data/test_open_splits.py::test_impossible_splits_are_refused",
        ),
        "fewer support images than shots": (
            "raml/test_stages.py::test_too_few_supports_are_an_error",
            "data/test_supports.py::test_too_few_candidates_are_counted",
        ),
        "a split that leaves no known class": (
            "data/test_open_splits.py::test_impossible_splits_are_refused",
        ),
        "a class that vanishes at a small resolution": (
            "raml/test_inference.py::test_a_thin_mask_takes_the_cells_it_touches",
            "cli/test_pop_novel.py::test_what_stops_add",
        ),
        "test images of odd sizes": (
            "raml/test_inference.py::test_shapes_and_ranges",
            "cli/test_raml_predict.py::test_odd_images",
        ),
        "an official checkpoint of another number of classes": (
            "raml/test_weights.py::test_what_is_refused",
        ),
        "NaN on its way to a prototype": (
            "reliability/test_bad_inputs.py::test_no_prototype_is_made_of_what_is_no_number",
            "engine/test_train.py::test_loss_that_is_not_finite",
        ),
    },
    "pop": {
        "fewer images of a class than shots": (
            "pop/test_stages.py::test_too_few_images_of_a_class_are_repeated_with_a_warning",
        ),
        "a support image without the class": (
            "pop/test_selection.py::test_a_support_without_its_class_is_named",
        ),
        "class ids beyond the table": ("pop/test_tables.py::test_values_beyond_the_table_are_refused",),
        "palette masks": (
            "pop/test_tables.py::test_g13_palette_masks_are_read_as_indices",
            "cli/test_pop_novel.py::test_palette_masks",
        ),
        "a base checkpoint of another fold": (
            "pop/test_stages.py::test_networks_of_another_fold_are_refused",
        ),
        "a base model trained with another class order": (
            "pop/test_class_order.py::test_a_base_model_of_another_class_order_is_told_by_name",
            "pop/test_tables.py::test_another_fold_is_named",
        ),
    },
    "simformer": {
        "an image whose labels are all void": (
            "simformer/test_stages.py::test_images_without_any_class_are_left_out_and_named",
        ),
        "masks that vanish at stride 4": (
            "simformer/test_losses.py::test_mask_that_vanishes_in_the_grid_is_matched_by_its_cells",
        ),
        "logits that are no numbers": (
            "engine/test_train.py::test_loss_that_is_not_finite",
            "simformer/test_losses.py::test_losses_of_no_number_are_none",
            "simformer/test_pair_losses.py::test_losses_of_no_number_are_none",
        ),
        "pairs of one image": (
            "simformer/test_pairing.py::"
            "test_an_image_without_novel_class_is_paired_by_a_base_class_or_with_itself",
        ),
        "pairs without a class in common": (
            "simformer/test_pairing.py::"
            "test_an_image_without_novel_class_is_paired_by_a_base_class_or_with_itself",
            "simformer/test_pair_losses.py::test_pairs_without_a_novel_class_in_common",
        ),
        "a batch without any mask": ("simformer/test_losses.py::test_without_any_mask",),
        "label ids beyond the table": (
            "data/test_bad_input.py::test_ids_outside_the_table_are_listed_with_their_pixels",
            "data/test_classes.py::test_lookup_maps_ids_to_positions_and_all_else_to_ignore",
        ),
    },
    "larvseg": {
        "a vocabulary file that is missing": (
            "larvseg/test_vocabulary.py::test_broken_vocabulary_files_are_named",
        ),
        "a vocabulary of another number of classes than the checkpoint": (
            "larvseg/test_vocabulary.py::test_broken_vocabulary_files_are_named",
            "larvseg/test_stages.py::test_a_vocabulary_of_other_classes_is_refused",
        ),
        "a name in a data set that the vocabulary lacks": (
            "larvseg/test_vocabulary.py::test_unknown_names_come_with_close_ones",
            "larvseg/test_stages.py::test_a_vocabulary_of_other_classes_is_refused",
        ),
        "16-bit labels read as 8-bit": (
            "data/test_wide_masks.py::test_labels_cut_to_eight_bits_are_refused",
        ),
        "an image folder that is no wnid": (
            "larvseg/test_image_sets.py::test_folder_that_is_no_wnid",
            "data/test_image_index.py::test_folder_that_is_no_wnid",
        ),
        "a corrupt JPEG among very many, skipped and counted": (
            "larvseg/test_image_sets.py::test_one_corrupt_jpeg_among_many",
            "data/test_image_pack.py::test_corrupt_images_are_skipped_and_counted",
        ),
        "a corrupt JPEG among very many, an error": (
            "larvseg/test_image_sets.py::test_corrupt_image_in_a_folder_stops",
            "data/test_image_pack.py::test_corrupt_image_is_an_error_that_names_it",
        ),
        "a class with no image": (
            "larvseg/test_image_sets.py::test_class_without_an_image",
            "data/test_image_index.py::test_class_without_an_image",
        ),
    },
    "files": {
        "damaged files of every format that is read": (
            "reliability/test_fuzz_readers.py::test_masks_in_png",
            "reliability/test_fuzz_readers.py::test_images",
            "reliability/test_fuzz_readers.py::test_score_stores",
            "reliability/test_fuzz_weights.py::test_safetensors",
            "reliability/test_fuzz_readers.py::test_manifests",
        ),
        "a pickle that runs code": (
            "nets/test_weight_files.py::test_code_in_a_file_is_not_run",
            "reliability/test_unsafe.py::test_no_command_runs_what_a_weights_file_asks_for",
        ),
        "an archive that leads out of its folder": (
            "data/test_download.py::test_nothing_leaves_the_folder",
            "reliability/test_unsafe.py::test_no_member_of_an_archive_leaves_the_folder",
        ),
        "a download that is another file": (
            "data/test_download.py::test_another_file_is_refused_and_removed",
        ),
        "class names that a shell would run": (
            "workflow/test_workflow.py::test_names_of_classes_reach_the_script_letter_for_letter",
            "reliability/test_unsafe_names.py::test_no_shell_runs_a_class_name",
        ),
    },
}  # fmt: skip
CASES = [(system, what) for system, cases in SHOWN.items() for what in cases]
LISTED = 49  # kinds that the systems' own lists have; those of files were added


@cache
def names_in(file: Path) -> frozenset[str]:
    """Names of the tests of a file, which are functions and no methods, without running it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def node_ids() -> list[str]:
    """What pytest is given to run the tests of all kinds, each once, from the root of the repository."""
    return list(dict.fromkeys(f"tests/{place}" for system, what in CASES for place in SHOWN[system][what]))


@pytest.mark.parametrize(("system", "what"), CASES)
def test_is_shown(system: str, what: str) -> None:
    assert SHOWN[system][what]
    for place in SHOWN[system][what]:
        file, name = place.split("::")
        assert name in names_in(TESTS / file), place


def test_nothing_is_left_out() -> None:
    assert sum(len(cases) for system, cases in SHOWN.items() if system != "files") == LISTED


def test_the_tests_of_all_kinds_are_printed_for_pytest(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(__file__, run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert printed == node_ids()
    assert len(printed) == len(set(printed)) >= LISTED
    assert {
        f"tests/{place}" for cases in SHOWN.values() for places in cases.values() for place in places
    } == {*printed}


def test_no_prototype_is_made_of_what_is_no_number() -> None:
    model = build_metric_net(network_options(open_tables()), load=False).eval()
    mask = np.ones((32, 32), dtype=bool)
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 32, 32))
        describe_support(model, maps, mask, hit_threshold=0.5, what="a.png, tram")
        maps.feature[0, 3, 2, 2] = torch.nan
    with pytest.raises(ArtifactError, match=r"a\.png, tram: .* no numbers; train it again"):
        describe_support(model, maps, mask, hit_threshold=0.5, what="a.png, tram")


if __name__ == "__main__":
    print("\n".join(node_ids()))
