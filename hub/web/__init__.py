"""Beside the line: templates, words, style sheets and islands of every page; capabilities' `pages.py` hand it facts."""
