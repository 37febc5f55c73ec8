"""Lesson 00: the checks of its exercises."""

LESSON = 0
