"""Lesson 11, the final (최종 퀴즈): ten questions from all lessons, and a page of what was passed.

final_draw       which questions are asked
final_quiz       their cards, and how it went
completion_page  what was passed in the whole course
"""

LESSON = 11
