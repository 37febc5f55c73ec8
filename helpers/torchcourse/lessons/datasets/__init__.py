"""Lesson 06, custom datasets (커스텀 데이터셋): collate, samplers, files, streams over ranks and workers.

folder          images with a label table
by_hand         a DataLoader by hand
collate         samples of different lengths: padding, masks, packing
samplers        batches of similar length, classes equally often, on any number of ranks
splits          splits that do not leak
corrupt         damaged records, counted and reported by name
memory_mapped   an array on disk that need not fit into memory
sharding        a stream that ranks and workers read together
waiting         a model of a DataLoader with workers, and how many of them pay
loader_profile  where the time of a batch goes, measured
practice        datasets that every kind of worker finds
checks          of the exercises

Pictures: `X_picture` beside the `X` that it draws.
"""

LESSON = 6
