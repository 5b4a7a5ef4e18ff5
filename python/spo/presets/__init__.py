"""The settings that come with the package: one TOML file a preset."""
