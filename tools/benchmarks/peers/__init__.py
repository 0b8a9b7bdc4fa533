"""`make bench-peers`: compares our PatchCore with anomalib's on the same points and photographs, in one run.

anomalib needs its own environment, so the two sides exchange files; both are evaluated by the same code.
"""
