"""Suite ``addons``: requests with adapters and ControlNets as popular as in production, loaded from a slow storage."""
