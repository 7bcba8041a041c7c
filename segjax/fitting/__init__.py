"""Fits that are convex or closed: what is learnt on features without a gradient step."""
