"""The machines of a cluster: checked, started, asked and stopped by Ray's own commands and ssh."""
