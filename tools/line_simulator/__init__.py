"""Rendered parts for demonstrations and tests: coated, stamped sheet metal under a ring light, four kinds of defect.

A part is a height field and a reflectance. A defect changes one of these, never the picture itself, so that its look
follows from its geometry.
"""
