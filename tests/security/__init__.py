"""What strangers get from each surface, and what listens: ``make security-test``."""
