"""Plain versions of what the library computes fast, in the words of the specification (retab.md).

They are written to be read beside the text, with loops where the text says "for every", and serve two ends:
the tests hold the fast versions equal to them, and `benchmarks/` times one against the other.
"""
