"""Checkpoints from elsewhere: one loader for what is found in the wild, which loads the right tensors or says why not.

    report = load_any("resnet_4gpus.pth", model)
    report = load_any("run/step-500", model, optimizer=optimizer)     # a folder that four ranks saved together

It reads files of torch.save (also of DataParallel, DDP and torch.compile), of Lightning, of safetensors; folders of
Hugging Face's Trainer and of accelerate; and those of torch.distributed.checkpoint, with the shares of many ranks.
Nothing in a file is ever run (`weights_only`), tensors come to the CPU first, and either every name fits or nothing is
loaded. What had to be done is printed.

`reading` turns a folder or a file (`files`) into a dict, `matching` finds the model's weights in it, `optimizers` the
optimizer's state.
"""

from torchcourse.training.foreign.loading import Report, load_any
from torchcourse.training.foreign.reading import read
from torchcourse.training.foreign.sharded import gather, save_sharded
from torchcourse.training.foreign.tensors import export_safetensors, import_safetensors

__all__ = ["Report", "export_safetensors", "gather", "import_safetensors", "load_any", "read", "save_sharded"]
