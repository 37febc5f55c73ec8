"""Train the weights of `lessons.transfer.backbones.mnist_cnn`: `python -m torchcourse.tools.make_data.mnist_weights`.

Eight epochs of `models.small_cnn` on the 4,000 training images of MNIST, on one thread, in about 15 seconds. The last
bits may differ from machine to machine.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from torchcourse.data import mnist
from torchcourse.data.loaders import make_loader
from torchcourse.models import small_cnn
from torchcourse.tools.make_data.provenance import made_by
from torchcourse.training import Trainer

TARGET = Path(__file__).parents[2] / "lessons" / "transfer" / "weights" / "mnist_cnn.safetensors"
EPOCHS = 8


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, loader = small_cnn(), make_loader(mnist(), 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=EPOCHS * len(loader))
    trainer = Trainer(model, optimizer, F.cross_entropy, scheduler=scheduler, device="cpu")
    history = trainer.fit(loader, EPOCHS, val_loader=make_loader(mnist("test"), 250, shuffle=False))
    about = {
        "made": made_by("mnist_weights"),
        "architecture": "torchcourse.models.small_cnn()",
        "data": "torchcourse.data.mnist('train'): pixels from 0 to 1, minus 0.1307, divided by 0.3081",
        "test_accuracy": json.dumps(history["val_accuracy"][-1]),
        "license": "CC BY-SA 3.0, as the data; see mnist_cnn.LICENSE.md",
    }
    TARGET.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, TARGET, metadata=about)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e3:.0f} kB, test accuracy {about['test_accuracy']}")


if __name__ == "__main__":
    main()
