"""What hostile requests cost a gateway, and those who ask it meanwhile."""
