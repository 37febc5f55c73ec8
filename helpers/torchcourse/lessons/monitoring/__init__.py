"""Lesson 04, monitoring and checkpoints (모니터링과 체크포인트): sick runs, their diagnosis, and what saving costs."""

LESSON = 4
