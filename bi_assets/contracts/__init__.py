"""Source tables as they arrive: one TOML file each."""
