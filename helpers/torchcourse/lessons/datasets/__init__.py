"""Lesson 06, custom datasets (커스텀 데이터셋): collate, samplers, files, streams over ranks and workers."""

LESSON = 6
