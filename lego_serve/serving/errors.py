"""Errors between a coordinator and the replicas of a node."""


class NodeLost(Exception):
    """The replica that had a call died before it answered; the call may be made again."""
