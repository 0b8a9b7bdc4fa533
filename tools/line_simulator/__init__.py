"""Rendered parts for demonstrations and tests: coated, stamped sheet metal under a ring light, four kinds of defect.

A part is a height field and a reflectance. A defect changes one of the two and nothing in the picture directly, so it
looks as its geometry makes it look.
"""
