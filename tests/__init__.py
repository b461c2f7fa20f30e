"""Tests; a regular package, since eventkit installs one of the same name that would hide it."""
