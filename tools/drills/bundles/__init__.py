"""Ten thousand damaged and hostile bundles through everything that opens one."""
