"""``dpa trade``, ``dpa journal``, ``dpa kill`` and ``dpa alerts``."""
