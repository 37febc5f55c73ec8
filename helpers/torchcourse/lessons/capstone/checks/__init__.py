"""Checks of lesson 10's milestones, each in the module of its subject; `milestones` has them all."""
