"""`make bench-peers`: our PatchCore beside anomalib's, on the same points and photographs, in one run.

anomalib lives in an environment of its own, so the sides talk through files; both are judged by the same code.
"""
