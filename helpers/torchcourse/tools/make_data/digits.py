"""Make `data/files/digits_1797.npz` again from the package scikit-learn (`pip install scikit-learn`).

Run it as `python -m torchcourse.tools.make_data.digits`. The result does not depend on the day or the machine; a test
holds the images of the file to a checksum.
"""

from pathlib import Path

import numpy as np

from torchcourse.tools.make_data.provenance import save_data

TARGET = Path(__file__).parents[2] / "data" / "files" / "digits_1797.npz"


def main() -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(source.target))
    images, labels = source.images[order].astype(np.uint8), source.target[order].astype(np.uint8)
    save_data(TARGET, images=images, labels=labels)


if __name__ == "__main__":
    main()
