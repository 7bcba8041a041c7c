"""Grouping the pixels of an image into regions, whose boxes are proposals; nothing is learnt."""
