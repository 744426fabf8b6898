"""The engine: processes, devices, precision and sharding."""
