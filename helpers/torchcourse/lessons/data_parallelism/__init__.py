"""Lesson 01, data parallelism (데이터 병렬화): averaging, collectives, DDP by hand, sharding, and what they cost."""

LESSON = 1
