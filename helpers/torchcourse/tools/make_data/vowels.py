"""Make `data/files/vowels_640.npz` again from the package aeon (`pip install --no-deps aeon`).

Run it as `python -m torchcourse.tools.make_data.vowels`. The result does not depend on the day or the machine; a test
holds the frames of the file to a checksum. aeon is not imported: the two text files are read where they lie.
"""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from torchcourse.tools.make_data.provenance import save_data

TARGET = Path(__file__).parents[2] / "data" / "files" / "vowels_640.npz"


def main() -> None:
    sequences, speakers = [], []
    package = distribution("aeon")
    for part in ("TRAIN", "TEST"):
        (path,) = (file for file in package.files or [] if file.name == f"JapaneseVowels_{part}.ts")
        _, _, data = Path(str(package.locate_file(path))).read_text(encoding="utf-8").partition("@data\n")
        for line in data.splitlines():
            *channels, label = line.split(":")
            sequences.append(np.array([channel.split(",") for channel in channels], dtype=np.float32).T)
            speakers.append(int(label) - 1)
    frames = np.concatenate(sequences)
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.uint8)
    labels = np.array(speakers, dtype=np.uint8)
    save_data(TARGET, frames=frames, lengths=lengths, labels=labels)


if __name__ == "__main__":
    main()
