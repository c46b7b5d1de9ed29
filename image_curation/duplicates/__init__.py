"""Duplicates: hashes and vectors -> pairs that are alike (edges) -> groups -> the one of each group that stays."""

CODE_VERSION = "3"  # part of every artifact's birth certificate: raise it when the edges of the same input change
