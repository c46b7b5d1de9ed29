"""Images that are known already: lists of hashes to block, and sets of vectors to keep out or not to take twice."""
