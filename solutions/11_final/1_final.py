# %% [markdown]
# # Final: ten questions from all lessons
#
# **About 30 minutes** · any computer · after the lessons
#
# The study log notes an exam at the end of the learner's PyTorch course: *PyTorch 완성하기 (5/10)*, five of ten. Here such an
# exam is taken again. The ten questions are drawn for you: the same number from every lesson as far as ten allows, and first
# those behind your open misconceptions. None comes in the words in which you were asked last.
#
# **After this notebook you can**
#
# 1. say which lessons still hold and which do not;
# 2. say how far your confidence can be trusted;
# 3. write down what you thought, and how one can see that it is otherwise.

# %% setup

# %%
from torchcourse.lessons.final import final_quiz
from torchcourse.lessons.final.completion_page import completion
from torchcourse.lessons.start_here.daily_page import retrospective
from torchcourse.lessons.start_here.progress_report import progress
from torchcourse.quiz import review

review()

# %% [markdown]
# ## 1 · Ten questions
#
# Answer on your own, without notes, and say how sure you are: that is half of what you learn here. The first answer to
# each question counts. A try stays open until all ten are answered, also when you close the notebook.
#
# Did you take an exam elsewhere before? Then run `final_quiz.final_elsewhere(5, 10, day="2023-09-14")` with your own numbers
# in a new cell, once. It is kept in your journal, and the final is compared with it.

# %%
final_quiz.final()

# %% [markdown]
# ## 2 · How it went
#
# Seven of ten pass. Compare with the tries before, and look at the last line: of the answers of which you were certain, how many were
# right? A wrong answer of which you were certain is the one to work on. It comes back in `review()` tomorrow.

# %%
final_quiz.final_result()

# %% [markdown]
# ## 3 · One wrong answer in your own words
#
# ●●○ · 5 minutes · good for: the exam after this one.
#
# Choose an answer that was wrong, in this final or in an earlier quiz. Write what you thought, what is right, and **how one can see
# it**: what to print, to count or to measure. If all ten were right, choose one of which you were not certain.

# %% written: own_correction, 3 points [markdown]
# For example, the first wrong answer of the study log. *What I thought*: a checkpoint of several GPUs is large, so a
# single GPU has no room for it. *What is right*: its tensors name devices that the new machine lacks, and its names begin with `module.`.
# *How one can see it*: `torch.load(path, map_location="cpu")` loads it, and the sizes add up to those of one model; printing the keys shows the prefix.
#
# - 1 point: the thought behind the wrong answer is stated as its holder would state it
# - 1 point: the correction is right
# - 1 point: it names something to print, to count or to measure that tells the two apart

# %% [markdown]
# ## 4 · Where you are
#
# `final_quiz.final(again=True)` draws ten new questions. The page of today and the page of what was passed lie beside your journal.

# %%
progress()

# %%
retrospective()

# %%
completion()
