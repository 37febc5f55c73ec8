"""Lesson 07, transfer learning (전이 학습): pretrained backbones, and what of them is trained further.

backbones   pretrained networks, each with the scaling of its pixels
features    frozen features, computed once and kept
finetune    which parts learn, and how fast
lora        thin adapters beside layers that stay
few_labels  how many labels each method takes
forgetting  what is lost when other digits are learned, and what helps
solar       photographs of solar cells
tables      results of `few_labels` and `forgetting`, trained once
weights     of the backbones that travel with the course
checks      of the exercises

Pictures: `few_labels_picture`.
"""

LESSON = 7
