"""How an image becomes a square: the centre crop of the file."""

import numpy as np
from PIL import Image

from pnloc.run.severity.inputs import centre_crops


def test_a_centre_crop_is_the_largest_central_square_of_the_file(tmp_path):
    picture = np.zeros((48, 96), np.uint8)
    picture[:, 24:72] = 150
    Image.fromarray(picture).save(tmp_path / "wide.png")
    Image.fromarray(picture.T).save(tmp_path / "high.png")
    crops = centre_crops([str(tmp_path / "wide.png"), str(tmp_path / "high.png")], 24)
    assert crops.shape == (2, 24, 24) and crops.dtype == np.uint8 and (crops == 150).all()
