"""Lesson 00: the checks of its exercises, and the pages on which a learner sees where they stand.

checks            of the exercises
machine_report    what this machine offers, with a remedy where something is missing
placement_quiz    which lessons to take first
final_results     what the finals of lesson 11 came to
progress_report   how far each lesson is
daily_page        the page of a day, which a learner writes into; its words are in daily_page_text
course_map        what there is to do in the learner's notebooks, and what comes next
front_page        where to continue, what is due, how far each lesson is; start_notebook puts it into `start.ipynb`

Pictures: `X_picture` beside the `X` that it draws. No page imports torch: each is there at once.
"""

LESSON = 0
