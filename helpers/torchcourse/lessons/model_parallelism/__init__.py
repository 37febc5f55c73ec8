"""Lesson 02, model parallelism (모델 병렬화): pipelines, layers split over ranks, and a planner that chooses.

pipeline         schedules as data: simulated, drawn, and executed by ranks
tensor_parallel  layers split over ranks, by hand and by DTensor
planner          bytes and seconds of a layout before anything runs
checks           of the exercises

Pictures: `X_picture` beside the `X` that it draws.
"""

LESSON = 2
