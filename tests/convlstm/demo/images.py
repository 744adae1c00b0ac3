"""What the images of the page hold."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(address: str) -> NDArray[np.uint8]:
    """Return the image that an address holds."""
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
    )
