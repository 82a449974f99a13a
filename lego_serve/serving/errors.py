"""Errors between a coordinator and the replicas of a node."""


class NodeLost(Exception):
    """The replica that had a call died before it answered; the call may be made again."""


class NodeHung(NodeLost):
    """The replica that has a call does not answer any more, or never got it; the call may be made again elsewhere."""


class DispatcherGone(Exception):
    """The dispatcher of shared workers died, does not answer, or cannot be reached; it may come back."""
