"""Lesson 02, model parallelism (모델 병렬화): pipelines, tensor parallelism, and a planner of layouts."""

LESSON = 2
