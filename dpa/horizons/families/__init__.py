"""Model families: each in one file, all behind one Protocol, found by name."""
