"""Transfer learning: pretrained backbones with their pixel scaling, and what of them is trained further."""

LESSON = 7
