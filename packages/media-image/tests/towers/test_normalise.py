"""Normalised values, against transformers' two backends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sensorium.errors import ConfigError
from sensorium_media_image.towers.normalise import Normalisation, read_normalisation

ALL_VALUES = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


def normalise(pixels: np.ndarray) -> np.ndarray:
    mean, std = Normalisation().constants(torch.device("cpu"))
    return ((torch.from_numpy(pixels).float() - mean) / std).numpy()


def test_the_pil_backend_is_within_one_ulp_of_the_largest_value() -> None:
    """Near zero, where mean and value cancel, an ulp of the value itself means nothing."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    batch = processor(ALL_VALUES, input_data_format="channels_last", return_tensors="np")
    reference = batch["pixel_values"][0].transpose(1, 2, 0)
    ulp = np.spacing(np.abs(reference).max())
    assert np.abs(normalise(ALL_VALUES) - reference).max() <= ulp


@pytest.mark.gpu
def test_the_torchvision_backend_is_within_one_ulp() -> None:
    """Runs where torchvision is: the machine with the accelerator. Computes on the CPU."""
    from transformers.models.clip.image_processing_clip import CLIPImageProcessor

    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False)
    planes = torch.from_numpy(ALL_VALUES).permute(2, 0, 1)
    batch = processor(planes, input_data_format="channels_first", return_tensors="pt")
    reference = batch["pixel_values"][0].permute(1, 2, 0).numpy()
    ours = normalise(ALL_VALUES)
    assert np.all(np.abs(ours - reference) <= np.spacing(np.abs(reference)))


def test_what_the_checkpoint_says_counts() -> None:
    normalisation = read_normalisation(
        {"rescale_factor": 0.5, "image_mean": [1, 2, 3], "image_std": [4, 5, 6]}
    )
    assert normalisation == Normalisation(0.5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert read_normalisation({"image_mean": None}) == Normalisation()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"rescale_factor": "x"}, "rescale_factor is 'x'; it must be a number above 0"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"image_mean": 0.5}, "image_mean is 0.5; it must be a list of three numbers"),
        ({"image_std": [1, 1]}, r"image_std is \[1, 1\]; it must be a list of three"),
        ({"image_std": [1, 0, 1]}, "each entry must be above 0"),
    ],
)
def test_nonsense_is_refused_by_name(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_normalisation(entry)
